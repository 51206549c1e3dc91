#include "shard/source/page_source.h"

#include "shard/source/bus_guard.h"
#include "shard/source/readers.h"

namespace faultline::shard {

PageSource::PageSource(std::uint64_t bytes) : bytes_(bytes), readers_(std::make_unique<Readers>()) {}
PageSource::~PageSource() noexcept(false) = default;

Staged stagedAt(const void* data, std::size_t length) {
  switch (contentOf(data, length)) {
    case SourceContent::zero:
      return {Staged::Kind::zero, nullptr, 0};
    case SourceContent::data:
      return {Staged::Kind::bytes, data, 0};
    case SourceContent::lost:
      break;
  }
  return {Staged::Kind::lost, nullptr, 0};
}

}  // namespace faultline::shard
