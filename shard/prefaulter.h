// Background population of the extents that a shard owns, on its worker pool.
//
// The workers are shared by all restores, so they wait for no source: bytes that are not in memory are
// brought by reader threads of the source, and the task goes on when it has come. Nor do they wait where populations
// have a rate: the task goes on when its time has come.
//
// Demand comes first: before each section a worker looks whether the coordinator has closed the gate since
// the last one, which it does for every batch of faults; while it does, sections stay short, and they grow as
// long as nothing else happens. How short and how long, and when a worker yields: pace.h. A population of all
// pages does those around the latest fault first.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "process/byte_rate.h"
#include "shard/committer.h"
#include "shard/later.h"
#include "shard/source/staging_buffer.h"
#include "shard/worker_pool.h"
#include "threads/mutex.h"

namespace faultline::shard {

class Prefaulter {
 public:
  Prefaulter(const Committer& committer, WorkerPool& workers, unsigned parallel);
  // Cancels everything and waits for the workers that are at it; not for a source.
  ~Prefaulter();

  // Populates the pages of `ranges` that this shard owns, in order; no ranges: every page it owns. `done` is
  // called in some thread when it is finished or cancelled. Any thread.
  void start(AttachmentRef restore, std::uint64_t job, std::vector<shm::PageRange> ranges,
             std::function<void()> done);
  // `done` of the job still comes, and waits for no source. Unknown jobs are ignored. Any thread.
  void cancel(std::uint64_t restore, std::uint64_t job);
  void cancelAll(std::uint64_t restore);
  // How fast all of them together may be. Any thread.
  process::ByteRate& rate() { return rate_; }

 private:
  struct Job;
  struct Door;
  using JobRef = std::shared_ptr<Job>;
  // A run of pages whose bytes a reader thread has brought, in `buffer` where they cannot be used in place.
  struct Brought {
    shm::PageRange run;
    Staged staged;
    std::shared_ptr<StagingBuffer> buffer;
    std::uint64_t took = 0;  // ns
  };

  void work(const JobRef& job, unsigned worker);
  bool populate(const JobRef& job, unsigned worker, shm::PageRange range);
  bool handOver(const JobRef& job, shm::PageRange run);
  static Brought bring(const PageSource& source, std::uint64_t offset, std::uint64_t length,
                       shm::PageRange run);
  void brought(const std::weak_ptr<Job>& job, Brought what);
  void place(Job& job, unsigned worker, shm::PageRange run, const Staged& staged);
  void commitRuns(Job& job, unsigned worker, shm::PageRange range, const char* bytes);
  enum class Run { done, later, over };
  Run commitRun(Job& job, unsigned worker, shm::PageRange& run, Content content);
  bool goOnAfter(const JobRef& job, std::uint64_t ns);
  static JobRef comesBack(const std::weak_ptr<Job>& waiting);
  void finish(const JobRef& job);
  void stop(const std::vector<JobRef>& jobs);
  void end(const JobRef& job);

  const Committer& committer_;
  WorkerPool& workers_;
  const unsigned parallel_;  // tasks a job, where its source does not want more
  const std::shared_ptr<Door> door_;
  process::ByteRate rate_;
  Later later_;
  threads::Mutex mutex_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, JobRef> jobs_ GUARDED_BY(mutex_);
};

}  // namespace faultline::shard
