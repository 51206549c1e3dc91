#include "shmtracker/robust_mutex.h"

#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>

#include "shmtracker/error.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace faultline::shm {

void RobustMutex::initialise(pthread_mutex_t& mutex) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  std::memset(&mutex, 0, sizeof mutex);
  pthread_mutex_init(&mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

LockResult RobustMutex::settle(int error) {
  switch (error) {
    case 0:
      return LockResult::acquired;
    case EOWNERDEAD:
      pthread_mutex_consistent(mutex_);
      return LockResult::ownerDied;
    case EBUSY:
    case ETIMEDOUT:
      return LockResult::busy;
    default:
      throw SegmentError(std::string("a lock word in the segment is damaged: ") + std::strerror(error));
  }
}

LockResult RobustMutex::lock() {
  return settle(pthread_mutex_lock(mutex_));
}

LockResult RobustMutex::tryLock() {
  return settle(pthread_mutex_trylock(mutex_));
}

LockResult RobustMutex::lockUntil(std::chrono::steady_clock::time_point deadline) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
  const timespec until{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  const LockResult result = settle(pthread_mutex_clocklock(mutex_, CLOCK_MONOTONIC, &until));
#ifdef __SANITIZE_THREAD__
  // GCC 12's ThreadSanitizer does not see pthread_mutex_clocklock.
  if (result != LockResult::busy) {
    __tsan_mutex_pre_lock(mutex_, 0);
    __tsan_mutex_post_lock(mutex_, 0, 0);
  }
#endif
  return result;
}

void RobustMutex::unlock() {
  pthread_mutex_unlock(mutex_);
}

}  // namespace faultline::shm
