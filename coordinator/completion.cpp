#include "coordinator/completion.h"

#include <algorithm>
#include <cstdint>

namespace faultline::coordinator {

namespace {

// Pages that are looked at in one go, a few ms.
constexpr std::uint64_t FIND_STEP = 1u << 24;
constexpr kj::Duration COMPLETION_CHECK = 20 * kj::MILLISECONDS;

}  // namespace

// `firstMissing`: the first page that may be missing. A page is never missing again, so that never moves back.
kj::Promise<void> whenNoneMissing(kj::Timer& timer, const shm::Segment& segment, Population& population,
                                  shm::PageIndex firstMissing) {
  const shm::PageTable& pages = segment.pages();
  const shm::PageRange step{firstMissing, std::min(FIND_STEP, pages.pageCount() - firstMissing)};
  const shm::PageIndex first = pages.find(step, shm::PageState::missing);
  if (first == pages.pageCount()) return kj::READY_NOW;
  auto again = [&timer, &segment, &population, first] {
    return whenNoneMissing(timer, segment, population, first);
  };
  if (first == step.end()) return timer.afterDelay(0 * kj::SECONDS).then(kj::mv(again));
  return timer.afterDelay(COMPLETION_CHECK).exclusiveJoin(population.whenNextFinishes()).then(kj::mv(again));
}

}  // namespace faultline::coordinator
