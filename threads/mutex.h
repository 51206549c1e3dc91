// A mutex whose rules the compiler checks: clang does with -Wthread-safety (scripts/tidy), others compile std::mutex.
//
//   Mutex mutex_;
//   int shared_ GUARDED_BY(mutex_);    // read and written only by code that holds mutex_
//   void change() REQUIRES(mutex_);    // called only by code that holds mutex_
//
// clang looks at each function alone, and a lambda is a function: what a Condition waits for stands in a loop,
// `while (!shared_) changed_.wait(mutex_);`, not in a predicate. Constructors and destructors are not checked.
// See https://clang.llvm.org/docs/ThreadSafetyAnalysis.html
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#ifdef __clang__
#define FAULTLINE_THREADS(rule) __attribute__((rule))
#else
#define FAULTLINE_THREADS(rule)
#endif
#define GUARDED_BY(mutex) FAULTLINE_THREADS(guarded_by(mutex))
#define REQUIRES(mutex) FAULTLINE_THREADS(requires_capability(mutex))
#define ACQUIRES(...) FAULTLINE_THREADS(acquire_capability(__VA_ARGS__))
#define RELEASES(...) FAULTLINE_THREADS(release_capability(__VA_ARGS__))

namespace faultline::threads {

// Not recursive. To be held by a Lock.
class FAULTLINE_THREADS(capability("mutex")) Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() ACQUIRES() { mutex_.lock(); }
  void unlock() RELEASES() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
};

// Holds a mutex while it lives, but for the time between an unlock() and the next lock().
class FAULTLINE_THREADS(scoped_lockable) Lock {
 public:
  explicit Lock(Mutex& mutex) ACQUIRES(mutex) : mutex_(mutex) { mutex.lock(); }
  ~Lock() RELEASES() {
    if (held_) mutex_.unlock();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

  void unlock() RELEASES() {
    mutex_.unlock();
    held_ = false;
  }
  void lock() ACQUIRES() {
    mutex_.lock();
    held_ = true;
  }

 private:
  Mutex& mutex_;
  bool held_ = true;
};

// What threads that hold one mutex tell each other by. A wait lets go of the mutex, and may end without a notice.
class Condition {
 public:
  void wait(Mutex& mutex) REQUIRES(mutex) {
    std::unique_lock<std::mutex> held(mutex.mutex_, std::adopt_lock);
    changed_.wait(held);
    held.release();
  }
  // False: `until` has come.
  bool waitUntil(Mutex& mutex, std::chrono::steady_clock::time_point until) REQUIRES(mutex) {
    std::unique_lock<std::mutex> held(mutex.mutex_, std::adopt_lock);
    const bool noticed = changed_.wait_until(held, until) == std::cv_status::no_timeout;
    held.release();
    return noticed;
  }
  void notifyOne() { changed_.notify_one(); }
  void notifyAll() { changed_.notify_all(); }

 private:
  std::condition_variable changed_;
};

}  // namespace faultline::threads
