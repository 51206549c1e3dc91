// Objects that the benchmarks of single parts work on.
#pragma once

#include <cstdint>
#include <utility>

#include "shmtracker/segment.h"

namespace faultline::bench {

inline constexpr std::uint64_t PARTS_PAGES = 1 << 18;  // 1 GiB of 4 KiB pages
inline constexpr std::uint64_t PARTS_BASE = 1ull << 40;

inline shm::Segment makeSegment(std::uint32_t shards) {
  return shm::Segment::create({.restoreId = 1,
                               .name = "bench",
                               .sourceName = "",
                               .regions = {{PARTS_BASE, PARTS_PAGES * shm::SMALL_PAGE, 0, shm::SMALL_PAGE}},
                               .sourceBytes = PARTS_PAGES * shm::SMALL_PAGE,
                               .workersPerShard = 3,
                               .shards = shards});
}

// The write side, where no other thread is in a section.
inline shm::ExclusiveGuard closeAndDrain(shm::Segment& segment) {
  segment.lock().close();
  unsigned next = 0;
  return std::move(*segment.lock().drainFrom(next, segment.activeSlots(), {}, {}));
}

}  // namespace faultline::bench
