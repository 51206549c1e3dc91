// Background population of one restore: each shard that serves it is asked for its own part, and asked again
// where it died, was replaced, or owns other pages now.
//
// Shards are asked while it is the restore's turn, its target may have the memory, and it is not paused. Otherwise their
// runs are ended, and begun anew later.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/fault_router.h"
#include "coordinator/populations.h"
#include "coordinator/prefault_job.h"
#include "coordinator/shard_pool.h"
#include "coordinator/source_files.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only. The objects that it refers to must outlive it.
class Population final : private PopulationTurns::Member,
                         private MemoryWatch::Member,
                         private kj::TaskSet::ErrorHandler {
 public:
  // `target`: pidfd, borrowed; -1: no limit of its memory is known.
  Population(kj::Timer& timer, Populations& shared, ShardPool& pool, FaultRouter& router,
             shm::Segment& segment, const SourceFiles& source, int target);
  ~Population() noexcept(false);

  // Begins a job; without ranges, for every page.
  std::shared_ptr<PrefaultJob> begin(std::vector<shm::PageRange> ranges);
  void cancel(PrefaultJob& job);
  // Ends population: every job finishes as it is.
  void giveUp();
  // While paused, nothing is populated.
  void pause(bool paused);
  bool underWay() const { return !jobs_.empty(); }
  // Why no shard is asked though a job is under way; empty: it is, or none is. For people.
  std::string whyHeld() const;
  // Whether it is held since the target's memory has no room for it, and will be until that changes.
  bool lacksMemory() const { return stage_ == Stage::held; }
  // For one caller at a time.
  kj::Promise<void> whenNextFinishes();

  // A shard has answered its attach: it is asked for its part of the jobs. A repeated call asks for nothing twice.
  void shardUp();
  // A shard has died or is being replaced: its later answers, of runs that it has had to stop, are ignored.
  void shardGone(std::uint32_t index);
  // The extents have other owners.
  void dealtOut();

 private:
  // resting: no job, or paused. queued: its turn has not come. looking: it has, and the target's memory is looked at.
  // running: shards are asked. held: the memory has no room.
  enum class Stage { resting, queued, looking, running, held };

  void goOn();
  void rest();
  void look();
  void suspend();
  void askAll();
  void ask(const std::shared_ptr<PrefaultJob>& job, ShardHandle& shard);
  void answered(const std::shared_ptr<PrefaultJob>& job, std::uint32_t shard, std::uint64_t run);
  void finishIfDone(const std::shared_ptr<PrefaultJob>& job);
  void endRun(PrefaultJob& job, std::uint32_t shard, std::uint64_t run);
  void tellRuns();
  void measureSource();
  std::vector<shm::PageRange> wanted() const;

  // Of PopulationTurns.
  void turnCame() override { look(); }
  // Of MemoryWatch.
  int target() const override { return target_; }
  bool held() const override { return stage_ == Stage::held || stage_ == Stage::queued; }
  std::uint64_t mostBytes() const override;
  kj::Promise<std::uint64_t> missingBytes() override;
  void fits() override;
  void doesNotFit(const std::string& why) override;

  void taskFailed(kj::Exception&& exception) override;

  kj::Timer& timer_;
  Populations& shared_;
  ShardPool& pool_;
  FaultRouter& router_;
  shm::Segment& segment_;
  const SourceFiles& source_;
  const int target_;
  Stage stage_ = Stage::resting;
  bool paused_;
  std::string noRoom_;                             // why it is held
  std::uint64_t sourceBytes_ = ~std::uint64_t{0};  // at most so many are not zero in the source
  bool measuring_ = false;                         // or that was done
  std::vector<std::shared_ptr<PrefaultJob>> jobs_;
  std::uint64_t lastRun_;
  kj::Own<kj::PromiseFulfiller<void>> nextFinishes_;
  kj::Canceler counting_;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
