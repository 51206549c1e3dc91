// Background population of the extents that a shard owns, on its worker pool.
//
// Demand comes first: before each section a worker looks whether the coordinator has closed the gate since
// the last one, which it does for every batch of faults; while it does, sections stay short, and they grow as
// long as nothing else happens.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "shard/committer.h"
#include "shard/worker_pool.h"

namespace faultline::shard {

class Prefaulter {
 public:
  Prefaulter(const Committer& committer, WorkerPool& workers, unsigned parallel)
      : committer_(committer), workers_(workers), parallel_(parallel) {}
  // Cancels everything and waits for it.
  ~Prefaulter();

  // Populates the pages of `ranges` that this shard owns, in order; no ranges: every page it owns. `done` is
  // called in some thread when it is finished or cancelled. Any thread.
  void start(AttachmentRef restore, std::uint64_t job, std::vector<shm::PageRange> ranges,
             std::function<void()> done);
  // `done` of the job still comes. Unknown jobs are ignored. Any thread.
  void cancel(std::uint64_t restore, std::uint64_t job);
  void cancelAll(std::uint64_t restore);

 private:
  struct Job;
  void work(const std::shared_ptr<Job>& job, unsigned worker);
  void populate(Job& job, unsigned worker, shm::PageRange range);
  void commitRuns(Job& job, unsigned worker, shm::PageRange range, const char* bytes);
  static void makeWay(Job& job);
  bool commitRun(Job& job, unsigned worker, shm::PageRange run, Content content);
  void finish(const std::shared_ptr<Job>& job);

  const Committer& committer_;
  WorkerPool& workers_;
  const unsigned parallel_;  // tasks a job
  std::mutex mutex_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::shared_ptr<Job>> jobs_;  // guarded by mutex_
};

}  // namespace faultline::shard
