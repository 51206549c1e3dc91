// Functions that are called after a while, so that no worker sleeps meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <thread>

#include "threads/mutex.h"

namespace faultline::shard {

// Any thread. The functions are called in one thread, which is started for the first of them, and must not wait.
class Later {
 public:
  Later() = default;
  // Calls no further one, and waits for the one that is being called.
  ~Later() { stop(); }
  Later(const Later&) = delete;

  // Calls it once so many ns have passed. False where there is no thread for that (EAGAIN), or it was stopped.
  [[nodiscard]] bool after(std::uint64_t ns, std::function<void()> work);
  // Calls no further function, and waits for the one that is being called.
  void stop();

 private:
  void run();

  threads::Mutex mutex_;
  threads::Condition changed_;
  std::multimap<std::uint64_t, std::function<void()>> due_ GUARDED_BY(mutex_);  // ns
  bool stopped_ GUARDED_BY(mutex_) = false;
  std::thread thread_;  // started by after(), joined by stop()
};

}  // namespace faultline::shard
