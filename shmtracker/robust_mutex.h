// A process-shared robust mutex in shared memory, and nothing more.
#pragma once

#include <pthread.h>

#include <chrono>

namespace faultline::shm {

enum class [[nodiscard]] LockResult{
    acquired,
    ownerDied,  // acquired, and made consistent: its owner died holding it, past its last system call
    busy,       // not acquired: held, or still held at the deadline
};

// A view of a pthread_mutex_t that lies in the segment. PTHREAD_MUTEX_ROBUST: when a thread dies holding it,
// the kernel marks it after any system call of that thread has ended (kernel/futex/core.c, the robust list is
// walked at exit), so ownerDied is also the proof that the dead thread's copy is over.
// Boost.Interprocess 1.74 has no robust mutex (its waiters hang for ever), hence pthread's own.
//
// ownerDied is never swallowed here: the caller decides and counts. The mutex is usable afterwards. A damaged
// mutex throws SegmentError from each way to lock it.
class RobustMutex {
 public:
  explicit RobustMutex(pthread_mutex_t& mutex) : mutex_(&mutex) {}

  // To be called by the segment's creator before another process can see the segment, or when no other
  // process that maps it is alive.
  static void initialise(pthread_mutex_t& mutex);

  LockResult lock();
  LockResult tryLock();
  LockResult lockUntil(std::chrono::steady_clock::time_point deadline);
  void unlock();

 private:
  LockResult settle(int error);

  pthread_mutex_t* mutex_;
};

}  // namespace faultline::shm
