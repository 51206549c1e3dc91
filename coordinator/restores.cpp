#include "coordinator/restores.h"

namespace faultline::coordinator {

namespace {

// Restores are counted one after the other: all at once would be one step of each.
kj::Promise<void> countOn(const CountedRestores& restores, std::size_t next, kj::Timer& timer) {
  constexpr std::size_t TOGETHER = 16;
  if (next == restores->size()) return kj::READY_NOW;
  auto turn =
      next % TOGETHER == TOGETHER - 1 ? timer.afterDelay(0 * kj::SECONDS) : kj::Promise<void>(kj::READY_NOW);
  return turn.then([restores, next] { return (*restores)[next].restore->counts(); })
      .then([restores, next, &timer](const shm::PageCounts& counts) {
        (*restores)[next].counts = counts;
        return countOn(restores, next + 1, timer);
      });
}

}  // namespace

kj::Promise<CountedRestores> countEach(const Restores& restores, kj::Timer& timer) {
  auto counted = std::make_shared<std::vector<CountedRestore>>();
  for (const auto& [id, restore] : restores)
    if (!restore->over()) counted->push_back({restore, {}});
  return countOn(counted, 0, timer).then([counted] { return counted; });
}

}  // namespace faultline::coordinator
