// The end of a restore whose target lives: its memory is let go, so that it runs on with no server. What it still misses
// becomes an error first, or it is killed, as the operator wants it (coordinator/departure.h).
#pragma once

#include <kj/async.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/departure.h"
#include "coordinator/life.h"
#include "coordinator/range_release.h"
#include "coordinator/restore_context.h"
#include "coordinator/restore_fds.h"
#include "coordinator/shard_attachments.h"
#include "coordinator/target_watch.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// For people: why a restore is over whose target has no memory left.
inline constexpr const char* NOTHING_LEFT = "its memory has left its regions";

// Loop thread only.
class RestoreEnding {
 public:
  class Owner {
   public:
    // Resolves when no shard is being made an owner of the restore.
    virtual kj::Promise<void> whenFormerOwnersHaveLeft() = 0;
    // No shard has the restore any more, and its memory is not let go: each fault is to get an error.
    virtual void answerAlone() = 0;
    // The memory is let go, so the restore is over; `counts`: its pages, as that was done.
    virtual void finish(const shm::PageCounts& counts) = 0;

   protected:
    ~Owner() = default;
  };

  // Borrows all.
  RestoreEnding(RestoreContext& context, const RestoreFds& fds, shm::Segment& segment, Life& life,
                ShardAttachments& shards, TargetWatch& target, RangeRelease& release, Owner& owner);

  // The target faulted where no region is: at the end it is looked whether memory is registered there. A target can make as
  // many such faults as it likes, so not all are noted. True: it is the first.
  bool faultedOutside(std::uint64_t address);

  // Lets the memory go, and tries again for as long as it cannot. To be called once its life is ending. Resolves when the
  // owner has been told, or the restore is over without that; this must outlive it.
  kj::Promise<void> begin();

 private:
  kj::Promise<void> depart();
  kj::Promise<void> departIncomplete();
  DepartureOrder departure(DepartureOrder::Poison poison) const;
  kj::Promise<void> loseMissing();
  kj::Promise<void> poisonMissing();
  kj::Promise<void> departed(Departed how);
  kj::Promise<void> keepOn(const std::string& why);
  kj::Promise<void> leave(std::uint64_t deadline);
  kj::Timer& timer() const { return context_.io.provider->getTimer(); }
  std::string restore() const { return "restore " + segment_.name(); }

  RestoreContext& context_;
  const RestoreFds& fds_;
  shm::Segment& segment_;
  Life& life_;
  ShardAttachments& shards_;
  TargetWatch& target_;
  RangeRelease& release_;
  Owner& owner_;
  std::vector<std::uint64_t> outside_;  // addresses of the first faults that no region covers
  bool keptTold_ = false;               // told: the memory cannot be let go
};

}  // namespace faultline::coordinator
