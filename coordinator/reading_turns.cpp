#include "coordinator/reading_turns.h"

#include <sched.h>

#include "process/clock.h"

namespace faultline::coordinator {

namespace {
// In ns. LIMIT: the longest yield that costs nothing; PAUSE: the time without yields after a longer one.
constexpr std::uint64_t LIMIT = 500'000, PAUSE = 1'000'000'000;
}  // namespace

void ReadingTurns::makeWay() {
  const std::uint64_t before = process::nowNs();
  if (before < makeWayFrom_) return;
  sched_yield();
  const std::uint64_t after = process::nowNs();
  if (after - before > LIMIT) makeWayFrom_ = after + PAUSE;
}

// By the timer, since that has the loop look at its fds as well.
kj::Promise<void> ReadingTurns::step(kj::Timer& timer) {
  auto before = lastStep_.has_value() ? lastStep_->addBranch() : kj::Promise<void>(kj::READY_NOW);
  lastStep_.emplace(before.then([&timer] { return timer.afterDelay(0 * kj::SECONDS); }).fork());
  return lastStep_->addBranch();
}

}  // namespace faultline::coordinator
