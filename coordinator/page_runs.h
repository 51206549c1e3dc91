// Pages of a restore as runs with one state, or one owner, for answers that are bounded however many pages
// there are.
#pragma once

#include <cstdint>
#include <vector>

#include "shmtracker/segment.h"

namespace faultline::coordinator {

// An answer: some ms of the loop's time.
inline constexpr std::size_t MAX_RUNS = 65536;
inline constexpr std::uint64_t MAX_PAGES = 1u << 24;

template <typename Value>
struct Run {
  shm::PageRange range;
  Value value;
};

// In order from the range's first page on, without a gap, to its end, to MAX_RUNS or to MAX_PAGES. `range` lies in
// the segment.
std::vector<Run<shm::PageState>> stateRuns(const shm::PageTable& pages, shm::PageRange range);
// The runs of the shards that are asked for the pages.
std::vector<Run<std::uint32_t>> ownerRuns(const shm::Segment& segment, shm::PageRange range);

}  // namespace faultline::coordinator
