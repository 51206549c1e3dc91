// From any thread to the thread of the KJ event loop.
#pragma once

#include <kj/async-unix.h>
#include <kj/io.h>

#include <functional>
#include <vector>

#include "threads/mutex.h"

namespace faultline::shard {

// A queue and an eventfd. Not kj::Executor: its locking is invisible to ThreadSanitizer.
class LoopMailbox {
 public:
  // In the loop's thread.
  explicit LoopMailbox(kj::UnixEventPort& port);

  // Runs `action` in the loop's thread, some time. Any thread.
  void post(std::function<void()> action);

  // Runs what is posted until the promise is dropped; in the loop's thread.
  kj::Promise<void> run();

 private:
  threads::Mutex mutex_;
  std::vector<std::function<void()>> posted_ GUARDED_BY(mutex_);
  kj::AutoCloseFd event_;
  kj::UnixEventPort::FdObserver observer_;
};

}  // namespace faultline::shard
