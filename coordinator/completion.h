// When a restore is complete: no page of it is missing.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include "coordinator/population.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Resolves when none is missing; looks in steps, again a moment later, and as a job of `population` finishes. Borrows all
// until then. Loop thread only.
kj::Promise<void> whenNoneMissing(kj::Timer& timer, const shm::Segment& segment, Population& population,
                                  shm::PageIndex firstMissing = 0);

}  // namespace faultline::coordinator
