// The shards that serve one restore: attached before they are handed a fault, told of what changes, and left again.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/fault_router.h"
#include "coordinator/population.h"
#include "coordinator/shard_pool.h"
#include "coordinator/source_files.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only. The owner keeps itself alive until the promises resolve.
class ShardAttachments {
 public:
  class Owner {
   public:
    // Whether shards are to have the restore; asked anew whenever one has answered.
    virtual bool wantsShards() const = 0;
    // All shards that own a page of it are attached. May come more than once.
    virtual void allAttached() = 0;
    // A shard lives and does not serve the restore, which would leave its pages without an answer for ever.
    virtual void shardRefuses(const std::string& why) = 0;
    // The source is not what the restore began with: no byte of it may be used.
    virtual void sourceHasChanged(const std::string& why) = 0;

   protected:
    ~Owner() = default;
  };

  // Borrows all, the uffd included. `layers`: what the files of the source were, where they are several.
  ShardAttachments(ShardPool& pool, kj::Timer& timer, shm::Segment& segment, int uffd,
                   const SourceFiles& source, const std::vector<SourceLayer>& layers, FaultRouter& router,
                   Population& population, Owner& owner);

  bool attached(std::uint32_t shard) const { return router_.attached(shard); }
  bool owns(std::uint32_t shard) const { return segment_.shares().at(shard) > 0; }

  // Attaches all owners that are up, as a restore begins. Resolves when each has answered or died.
  kj::Promise<void> begin();
  // A shard is up (again), and owns pages: attaches it, and gives up on `hopeless` pages before it is handed a
  // fault. True: it serves. Fails (disconnected) where it dies meanwhile.
  kj::Promise<bool> up(ShardHandle& shard, std::vector<shm::PageIndex> hopeless);
  // Attaches the first `shards` shards, as they are to become owners. Refuses (notReady) where one is not up.
  kj::Promise<void> attachFirst(std::uint32_t shards);
  // The owners that are up and not attached.
  std::vector<ShardHandle*> unattachedOwners() const;

  void died(std::uint32_t index);
  // Hands the shard no more faults; resolves when it uses nothing of the restore.
  kj::Promise<void> leave(ShardHandle& shard);
  // leave(), and resolves when no section of it is under way, or will be: a shard that does not let go in time is killed.
  // `why`: for the log, behind the restore's name.
  kj::Promise<void> leaveInTime(ShardHandle& shard, const char* why);
  // All of them: resolves when no section of one is under way, or will be. A shard that does not let go in time is
  // killed.
  kj::Promise<void> leaveAll();
  // All of them, waiting for none.
  void drop();
  // Hands no fault to any: the restore has failed.
  void stop();

 private:
  kj::Promise<void> attach(ShardHandle& shard, std::vector<shm::PageIndex> hopeless = {});
  kj::Promise<void> poison(ShardHandle& shard, const std::vector<shm::PageIndex>& pages);
  std::uint64_t id() const { return segment_.facts().restoreId; }

  ShardPool& pool_;
  kj::Timer& timer_;
  shm::Segment& segment_;
  const int uffd_;
  const SourceFiles& source_;
  const std::vector<SourceLayer>& layers_;
  FaultRouter& router_;
  Population& population_;
  Owner& owner_;
};

}  // namespace faultline::coordinator
