// A restore: a target's address space being brought back.
#pragma once

#include <kj/async-io.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/ended_restores.h"
#include "coordinator/event_log.h"
#include "coordinator/fault_answerer.h"
#include "coordinator/fault_router.h"
#include "coordinator/fetcher.h"
#include "coordinator/initial_population.h"
#include "coordinator/life.h"
#include "coordinator/milestone.h"
#include "coordinator/options.h"
#include "coordinator/page_counting.h"
#include "coordinator/population.h"
#include "coordinator/populations.h"
#include "coordinator/range_release.h"
#include "coordinator/recording.h"
#include "coordinator/refused_targets.h"
#include "coordinator/restore_context.h"
#include "coordinator/restore_ending.h"
#include "coordinator/restore_fds.h"
#include "coordinator/restore_spec.h"
#include "coordinator/service_counters.h"
#include "coordinator/shard_attachments.h"
#include "coordinator/shard_pool.h"
#include "coordinator/source_files.h"
#include "coordinator/target_watch.h"
#include "coordinator/uffd_reader.h"
#include "coordinator/undertaker.h"
#include "rpc/control.capnp.h"
#include "rpc/refusal.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only.
class Restore final : private ShardAttachments::Owner,
                      private TargetWatch::Owner,
                      private RangeRelease::Owner,
                      private RestoreEnding::Owner,
                      private kj::TaskSet::ErrorHandler {
 public:
  // Begins a restore and makes it durable. `segment`: of RestoreSpec::createSegment(). Throws, leaving nothing, where
  // the policy does not fit the target.
  static std::shared_ptr<Restore> begin(RestoreContext& context, const RestoreSpec& spec,
                                        shm::Segment segment, RestoreFds fds);
  // Takes over a predecessor's. Throws shm::SegmentError where the segment cannot be believed, std::bad_alloc where there is no
  // memory to map it.
  static std::shared_ptr<Restore> adopt(RestoreContext& context, RestoreFds fds, int segment,
                                        bool anyShardAlive);
  ~Restore() noexcept(false);

  // Has the supervisor keep all of it, again where it does already.
  void store();

  // Attaches it to the shards that are up, then serves.
  void start();
  // For an adopted restore, instead of start(): recovers, attaches, serves, and wakes all waiting threads at
  // the end. Work that takes as long as the restore is large is done in steps, or in a thread of its own. The caller keeps
  // the restore alive until the promise resolves.
  kj::Promise<void> recover();
  // A shard is up (again): attaches to it, gives up on `hopeless` pages, wakes all waiting threads. If the
  // shard lives and does not attach, the restore fails. The caller keeps the restore alive until the promise
  // resolves.
  kj::Promise<void> shardUp(ShardHandle& shard, std::vector<shm::PageIndex> hopeless);
  void shardDied(std::uint32_t index) { shards_.died(index); }
  // A shard is to be replaced: hands it no more faults, returns when it uses nothing of the restore.
  kj::Promise<void> shardLeaves(ShardHandle& shard) { return shards_.leave(shard); }

  std::uint64_t id() const { return segment_.facts().restoreId; }
  std::string name() const { return segment_.name(); }
  shm::Segment& segment() { return segment_; }
  UffdReader& reader() { return *reader_; }
  const RestoreFds& fds() const { return fds_; }
  const shm::Policy& policy() const { return segment_.facts().policy; }
  bool over() const override { return life_.over(); }
  // Refuses (wrongPhase) a call that needs it served, saying where it stands.
  [[noreturn]] void notServed() const;
  kj::Timer& timer() { return context_.io.provider->getTimer(); }
  bool failed() const { return life_.failed(); }
  const Recording& recording() const { return recording_; }
  bool populating() const { return population_.underWay(); }
  // All that is missing was asked for, and is populated or waits to be.
  bool populatesEverything() const {
    return population_.underWay() && segment_.header().prefaultAll.load() == shm::YES;
  }
  // Refuses (wrongPhase) where it will not be complete by a population alone: it has failed, or is paused.
  void requireDrainable() const;
  bool servedBy(std::uint32_t shard) const { return shards_.attached(shard); }
  bool ownedBy(std::uint32_t shard) const { return shards_.owns(shard); }

  void pause();
  void resume();
  Population& population() { return population_; }
  // Deals the extents out to `shards` shards, all of which are up, once an earlier call is over; then has the former
  // owners leave.
  kj::Promise<void> reshard(std::uint32_t shards);
  // Has shards that own nothing of it let go, and counts their slots no more. In the background.
  void leaveFormerOwners();
  kj::Promise<void> whenFormerOwnersHaveLeft() override { return resharded_.addBranch(); }
  // Shards with a number below this one own a part of it, or may be at work on it.
  std::uint32_t shardsNeeded() const;

  // Over: the target has gone, was released, or the operator says so.
  enum class Release { no, yes };  // with yes its ranges are unregistered: it runs on with no server
  // A removal that is under way is answered before it is over; and what is missing at a release is poisoned,
  // or the target is killed, as the operator wants it.
  // How many pages are missing then is counted first.
  void end(rpc::EndReason reason, const std::string& text, Release release);
  // Populates what is missing, however it was paused or begun, and releases the target when nothing is, or
  // when the population is over without it.
  void finishUp(const std::string& text);
  // Releases the target now, as the service ends.
  void shutDown(const std::string& text);
  // Goes on as a failed one: every fault gets an error, so that the target learns it; or it is killed, if
  // that is what the operator wants.
  void fail(rpc::EndReason reason, const std::string& text);
  // Ends it, saying `how` it was noticed, if its target's memory has gone. Never fails. The caller keeps the restore alive
  // until the promise resolves.
  kj::Promise<Presence> endIfGone(std::string how) { return target_.look(std::move(how)); }
  // A page that a shard could not give and has not poisoned.
  void pageLost(shm::PageIndex page);

  // Its pages by state. The caller keeps the restore alive until the promise resolves.
  kj::Promise<shm::PageCounts> counts() { return countPages(timer(), segment_); }
  void fill(rpc::RestoreInfo::Builder info, const shm::PageCounts& counts);
  void fill(rpc::RestoreStats::Builder stats);
  kj::Promise<void> whenReady() { return ready_.whenReached(); }
  kj::Promise<void> whenComplete() { return complete_.whenReached(); }
  kj::Promise<RestoreEnd> whenOver();

 private:
  Restore(RestoreContext& context, RestoreFds fds, shm::Segment segment);

  kj::Promise<void> deal(std::uint32_t shards);
  kj::Promise<void> formerOwnersLeave();
  void serveFromOwners();
  bool mayRelease() const;
  void failOf(const kj::Exception& exception);
  void fetchMissing(const std::string& text, std::uint64_t before);
  kj::Promise<std::uint64_t> missing();
  void noteEnd(const shm::PageCounts& counts);
  kj::Promise<void> bury();
  void completed();
  void serve();
  kj::Promise<void> lockOn();
  bool paused() const { return life_.stage() == Life::Stage::paused; }
  bool killsOnLost() const { return policy().killOnLost != 0; }
  // Makes every waiting thread of the target fault again.
  void wake();
  void taskFailed(kj::Exception&& exception) override { failOf(exception); }

  // Of ShardAttachments.
  bool wantsShards() const override {
    return life_.served() || (life_.stage() == Life::Stage::kept && !life_.failed());
  }
  void allAttached() override { ready_.reach(); }
  void shardRefuses(const std::string& why) override { fail(rpc::EndReason::NOT_SERVABLE, why); }
  void sourceHasChanged(const std::string& why) override { fail(rpc::EndReason::SOURCE_CHANGED, why); }
  // Of TargetWatch.
  void targetGone(const std::string& how) override;
  kj::Promise<void> pagesGone(std::vector<shm::PageRange> pages) override;
  kj::Promise<void> refused(kj::AutoCloseFd userfaultfd) override;
  void nothingLeft() override;
  void anotherKilled() override;
  void watchFailed(const kj::Exception& exception) override { failOf(exception); }

  // Of RangeRelease.
  kj::Promise<void> exclusively(std::function<void(const shm::ExclusiveGuard&)> mark) override;
  void released(const std::vector<shm::PageRange>& pages) override { target_.released(pages); }

  // Of RestoreEnding.
  void answerAlone() override;
  void finish(const shm::PageCounts& counts) override;

  UffdReaderHooks readerHooks();

  RestoreContext& context_;
  RestoreFds fds_;
  shm::Segment segment_;
  FaultRouter router_;
  Recording recording_;
  Population population_;
  kj::Own<UffdReader> reader_;
  FaultAnswerer answerer_;
  ShardAttachments shards_;
  TargetWatch target_;
  RangeRelease release_;
  kj::Own<Undertaker> undertaker_;
  kj::Promise<void> reading_;  // done by reader_ or undertaker_
  Life life_;
  RestoreEnding ending_;
  bool partTold_ = false;  // a part of a page that was given up was logged
  InitialPopulation initial_;

  Milestone ready_, complete_, over_;
  kj::Canceler inReader_;              // waits for the write side
  kj::ForkedPromise<void> resharded_;  // the last reshard is over, and the former owners have left
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
