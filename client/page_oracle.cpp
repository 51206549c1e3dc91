#include "client/page_oracle.h"

#include <cstring>

namespace faultline::target {

namespace {
bool uniform(const char* memory, std::uint64_t bytes, char value) {
  return memory[0] == value && std::memcmp(memory, memory + 1, bytes - 1) == 0;
}
}  // namespace

PageOracle::PageOracle(const char* image, std::uint64_t pages, std::uint64_t pageSize)
    : image_(image),
      pageSize_(pageSize),
      claims_(std::make_unique<std::atomic<bool>[]>(pages)),
      states_(std::make_unique<std::atomic<std::uint8_t>[]>(pages)) {}

std::optional<Mismatch> PageOracle::check(std::uint64_t page, const char* memory, Came& came) const {
  const std::uint8_t state = states_[page].load(std::memory_order_acquire);
  const char* source = image_ + page * pageSize_;
  const bool zero = state == REMOVED || (state == SNAPSHOT && uniform(source, pageSize_, 0));
  const char fill = state == WRITTEN ? static_cast<char>(patternOf(page)) : 0;
  const bool right = state == SNAPSHOT ? std::memcmp(memory, source, pageSize_) == 0 : uniform(memory, pageSize_, fill);
  for (std::uint64_t i = 0; !right && i < pageSize_; i++) {
    const char expected = state == SNAPSHOT ? source[i] : fill;
    if (memory[i] != expected)
      return Mismatch{page, i, static_cast<unsigned char>(expected), static_cast<unsigned char>(memory[i])};
  }
  came = state == REMOVED   ? Came::removed
         : state == WRITTEN ? Came::written
         : zero             ? Came::zeroInSource
                            : Came::source;
  return std::nullopt;
}

}  // namespace faultline::target
