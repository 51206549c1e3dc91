// How the readers of one loop share its thread, and the thread its CPU.
#pragma once

#include <cstdint>

namespace faultline::coordinator {

// Loop thread only.
class ReadingTurns {
 public:
  // Batches that `reader` may read before the loop sees to its other work: one after the other as long as
  // faults come to nobody else, since going through the loop costs as much as answering one.
  unsigned batches(const void* reader) const { return last_ == reader ? IN_ONE_GO : 1; }
  void had(const void* reader) { last_ = reader; }

  // Lets whatever is runnable on this CPU run first: a shard that has just been asked, and threads that are
  // about to fault, whose faults then come in one batch with one drain and one doorbell a shard, and wake
  // nobody since we never slept. What keeps the CPU for itself instead, as a vCPU that computes does, is
  // found out by its cost, and not made way for again for a while.
  void makeWay();

 private:
  static constexpr unsigned IN_ONE_GO = 8;

  const void* last_ = nullptr;     // who had faults last; never dereferenced
  std::uint64_t makeWayFrom_ = 0;  // ns
};

}  // namespace faultline::coordinator
