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

}  // namespace faultline::coordinator
