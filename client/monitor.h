// Watches a run from beside it: a thread that waits for a page can't.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

#include "client/target_run.h"
#include "threads/mutex.h"

namespace faultline::target {

struct MonitorOptions {
  unsigned timeoutSeconds = 0;      // 0: none
  bool showProgress = false;        // a line on stderr, redrawn
  std::function<void()> onTimeout;  // in the monitor's thread; does not return
};

// Shows how far the run is, says once (stderr) when it stands still because the server has closed the
// connection, and calls onTimeout. Until destroyed.
class Monitor {
 public:
  // `run` outlives it.
  Monitor(const Run& run, MonitorOptions options);
  ~Monitor();
  Monitor(const Monitor&) = delete;

 private:
  void watch();
  bool endsWithin(std::chrono::milliseconds time);
  void show(const Run::Progress& progress);
  void warnIfLeft(const Run::Progress& progress, std::uint64_t now);

  const Run& run_;
  const MonitorOptions options_;
  const std::uint64_t start_;
  std::uint64_t pagesSeen_ = 0, movedAt_;
  bool warned_ = false, drawn_ = false;
  threads::Mutex mutex_;
  threads::Condition ended_;
  bool over_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace faultline::target
