// Not linked: what clang must say of it, by the macro UNHELD (CMakeLists.txt).

#include "threads/mutex.h"

namespace faultline::threads {

class Counter {
 public:
  void add() {
#ifndef UNHELD
    const Lock lock(mutex_);
#endif
    count_++;
  }
  void awaitOne() {
    Lock lock(mutex_);
    while (count_ == 0) changed_.wait(mutex_);
    lock.unlock();
    lock.lock();
    reset();
  }

 private:
  void reset() REQUIRES(mutex_) {
    count_ = 0;
  }

  Mutex mutex_;
  Condition changed_;
  int count_ GUARDED_BY(mutex_) = 0;
};

void use(Counter& counter) {
  counter.add();
  counter.awaitOne();
}

}  // namespace faultline::threads
