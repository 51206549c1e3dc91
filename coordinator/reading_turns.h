// How the readers of one loop share its thread, and the thread its CPU.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <optional>

namespace faultline::coordinator {

// Loop thread only.
class ReadingTurns {
 public:
  // Batches that `reader` may read before the loop sees to its other work: several as long as faults come to
  // no other reader, since a turn of the loop costs as much as answering a fault.
  unsigned batches(const void* reader) const { return last_ == reader ? IN_ONE_GO : 1; }
  void had(const void* reader) { last_ = reader; }

  // Yields the CPU to the threads that are runnable on it: a shard that has just been asked, and threads that
  // are about to fault. Their faults then come in one batch, with one drain and one doorbell a shard. If the
  // yield took longer than LIMIT (a CPU-bound vCPU shares this CPU), yielding is suspended for PAUSE.
  void makeWay();

  // For work of a restore that takes longer than others may wait. Resolves when the caller may do the next step of it:
  // one step in each turn of the loop, however many restores have some to do.
  kj::Promise<void> step(kj::Timer& timer);

 private:
  static constexpr unsigned IN_ONE_GO = 8;

  const void* last_ = nullptr;     // the reader that had faults last; never dereferenced
  std::uint64_t makeWayFrom_ = 0;  // ns
  std::optional<kj::ForkedPromise<void>> lastStep_;
};

}  // namespace faultline::coordinator
