// The known mistakes of page servers, brought back on purpose: the control of the race and recovery tests.
//
// A build with -DFAULTLINE_MISTAKE=<name> makes exactly that mistake, and ./scripts/controls shows which test
// goes red for it. Other builds do not define it, so every made() is false at compile time and leaves no
// trace in a binary.
#pragma once

namespace faultline::failpoints {

enum class Mistake {
  none,
  stateBeforeLock,      // shard: looks at the page's state before it takes the read lock
  retryInsideLock,      // shard: waits for EAGAIN to clear while it holds the lock
  keepDecision,         // shard: keeps its source decision across EAGAIN
  faultedIsDone,        // shard: takes a fault on a faulted page for answered
  noWakeAfterPresent,   // shard: does not wake after EEXIST
  aroundDecidesBefore,  // shard: looks at the pages around a fault before it takes the read lock
  lockAfterRead,        // coordinator: takes the write side only after read()
  privateReadBuffer,    // coordinator: reads into private memory instead of the journal
  skipDrain,            // successor: replays and opens without draining
  openBeforeReplay,     // successor: opens the gate before it has replayed
  noWakeAfterTakeover,  // successor: does not wake
  noWakeAfterShard,     // coordinator: does not wake after a shard's death
  releasesData,         // coordinator: takes all of a source for zero for good
  releasesBeside,       // coordinator: takes what lies beside a removed page for removed
  storesEachName,       // supervisor: has an open file that has two names stored under each
};

#ifdef FAULTLINE_MISTAKE
constexpr bool made(Mistake mistake) {
  return mistake == Mistake::FAULTLINE_MISTAKE;
}
#else
constexpr bool made(Mistake) {
  return false;
}
#endif

}  // namespace faultline::failpoints
