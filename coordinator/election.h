// The lock by which no two coordinators serve at one time. The supervisor starts one when the other has
// ended; the lock holds also where a supervisor has died and left a coordinator behind that stands still.
//
// A record lock (fcntl(2)) on a memfd that the supervisor keeps: the kernel gives it back when the process
// that holds it has ended, and only coordinators have it, so no byte that rots or is written to by a shard
// decides who serves. Not a lock in each segment: the kernel cleans up only 2048 robust mutexes of a dead
// thread, and finds them through memory that others can write to.
#pragma once

#include <kj/io.h>

#include <chrono>

namespace faultline::coordinator {

class Election {
 public:
  // `kept`: what the supervisor keeps for it; -1: nothing yet. Waits `patience` for a predecessor that is
  // just ending. Throws where another coordinator lives on.
  explicit Election(kj::AutoCloseFd kept, std::chrono::milliseconds patience = std::chrono::seconds(5));

  // To be kept for successors: borrowed. -1 where it is kept already.
  int fresh() const { return fresh_ ? fd_.get() : -1; }

 private:
  const bool fresh_;
  // For life: the lock goes as soon as this process closes any fd of the file.
  const kj::AutoCloseFd fd_;
};

}  // namespace faultline::coordinator
