// The pages of a restore counted by state, in steps: a restore of terabytes has billions, and others are served in between.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <vector>

#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Pages that are looked at in one go, some 100 us.
inline constexpr std::uint64_t COUNT_STEP = 1u << 20;

// The counts of these ranges together; of all pages where none is given. Pages that change meanwhile are counted as they are
// when they are looked at. The segment must live until the promise resolves or is dropped. Loop thread.
kj::Promise<shm::PageCounts> countPages(kj::Timer& timer, const shm::Segment& segment,
                                        std::vector<shm::PageRange> ranges = {});

}  // namespace faultline::coordinator
