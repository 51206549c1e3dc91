// The write side of a lock, for a test that has no coordinator.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include "shmtracker/segment.h"

namespace faultline::test {

// Closes the gate and waits until no section is in flight. `ownerDied`: as RwLock::drainFrom() has it.
inline shm::ExclusiveGuard exclusive(shm::Segment& segment,
                                     const std::function<void(unsigned slot)>& ownerDied = {}) {
  segment.lock().close();
  unsigned next = 0;
  for (;;)
    if (auto guard =
            segment.lock().drainFrom(next, segment.activeSlots(), std::chrono::seconds(1), ownerDied))
      return std::move(*guard);
}

}  // namespace faultline::test
