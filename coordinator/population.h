// Background population of one restore: each shard that serves it is asked for its own part, and asked again
// where it died, was replaced, or owns other pages now.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "coordinator/fault_router.h"
#include "coordinator/prefault_job.h"
#include "coordinator/shard_pool.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only. The objects that it refers to must outlive it.
class Population final : private kj::TaskSet::ErrorHandler {
 public:
  Population(ShardPool& pool, FaultRouter& router, shm::Segment& segment);

  // Begins a job; without ranges, for every page.
  std::shared_ptr<PrefaultJob> begin(std::vector<shm::PageRange> ranges);
  void cancel(PrefaultJob& job);
  // Ends population: every job finishes as it is.
  void giveUp();
  // While held, nothing is populated.
  void hold(bool held);
  bool underWay() const { return !jobs_.empty(); }
  // For one caller at a time.
  kj::Promise<void> whenNextFinishes();

  // A shard has answered its attach: it is told whether population is held, and asked for its part of the
  // jobs. A repeated call asks for nothing twice.
  void shardUp(ShardHandle& shard, bool held);
  // A shard has died or is being replaced: its later answers, of runs that it has had to stop, are ignored.
  void shardGone(std::uint32_t index);
  // The extents have other owners.
  void dealtOut();

 private:
  void hold(ShardHandle& shard, bool held);
  void ask(const std::shared_ptr<PrefaultJob>& job, ShardHandle& shard);
  void answered(const std::shared_ptr<PrefaultJob>& job, std::uint32_t shard, std::uint64_t run);
  void cancelRun(std::uint32_t shard, std::uint64_t run);
  void taskFailed(kj::Exception&& exception) override;

  ShardPool& pool_;
  FaultRouter& router_;
  shm::Segment& segment_;
  std::vector<std::shared_ptr<PrefaultJob>> jobs_;
  std::uint64_t lastRun_;
  kj::Own<kj::PromiseFulfiller<void>> nextFinishes_;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
