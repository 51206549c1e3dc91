#include "shmtracker/layout.h"

#include <boost/crc.hpp>

namespace faultline::shm {

namespace {
constexpr std::size_t PART_ALIGNMENT = 4096;
}

Layout Layout::of(std::uint32_t regionCount, std::uint32_t extentCount, std::uint64_t pageCount,
                  std::uint32_t workersPerShard) {
  std::size_t at = 0;
  auto part = [&at](std::size_t bytes) {
    const std::size_t start = at;
    at += (bytes + PART_ALIGNMENT - 1) / PART_ALIGNMENT * PART_ALIGNMENT;
    return start;
  };
  const std::size_t words = (pageCount + 63) / 64;
  Layout layout{};
  part(sizeof(Header));
  layout.lock = part(sizeof(LockWords));
  layout.journal = part(JOURNAL_MESSAGES * sizeof(uffd_msg));
  layout.slots = part(sizeof(Slot) * MAX_SHARDS * workersPerShard);
  layout.counters = part(sizeof(RestoreCounters) + sizeof(ShardCounters) * MAX_SHARDS);
  layout.regions = part(sizeof(RegionEntry) * regionCount);
  layout.extents = part(sizeof(ExtentOwner) * extentCount);
  layout.pages = part(sizeof(PageWord) * words);
  layout.mirror = part(sizeof(PageWord) * words);
  layout.end = at;
  return layout;
}

std::uint32_t layoutHash() {
  const std::uint64_t facts[] = {
      sizeof(Header),          sizeof(LockWords), sizeof(Slot),        sizeof(pthread_mutex_t),
      sizeof(RegionEntry),     sizeof(PageWord),  sizeof(ExtentOwner), sizeof(ShardCounters),
      sizeof(RestoreCounters), JOURNAL_MESSAGES,  MAX_SHARDS,          0x0102030405060708};
  return crc32c(facts, sizeof facts);
}

std::uint32_t crc32c(const void* data, std::size_t bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(data, bytes);
  return crc.checksum();
}

}  // namespace faultline::shm
