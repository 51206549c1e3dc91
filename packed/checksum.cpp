#include "packed/checksum.h"

#include <xxhash.h>

#include <new>

namespace faultline::packed {

struct RunningHash::State {
  std::unique_ptr<XXH64_state_t, XXH_errorcode (*)(XXH64_state_t*)> hash{XXH64_createState(),
                                                                         XXH64_freeState};
};

std::uint64_t hashOf(std::span<const std::byte> bytes) {
  return XXH64(bytes.data(), bytes.size(), 0);
}

RunningHash::RunningHash() : state_(std::make_unique<State>()) {
  if (state_->hash == nullptr) throw std::bad_alloc();
  XXH64_reset(state_->hash.get(), 0);
}
RunningHash::~RunningHash() = default;
RunningHash::RunningHash(RunningHash&&) noexcept = default;

void RunningHash::add(std::span<const std::byte> bytes) {
  XXH64_update(state_->hash.get(), bytes.data(), bytes.size());
}

std::uint64_t RunningHash::value() const {
  return XXH64_digest(state_->hash.get());
}

}  // namespace faultline::packed
