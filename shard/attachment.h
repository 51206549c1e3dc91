// A restore as a shard sees it: segment, uffd and source.
#pragma once

#include <kj/io.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "rpc/reasons.capnp.h"
#include "shard/neighbourhood.h"
#include "shard/removals.h"
#include "shard/source/page_source.h"
#include "shmtracker/segment.h"
#include "threads/mutex.h"
#include "uffd/uffd.h"

namespace faultline::shard {

class Attachment;

// Terminal conditions of an attachment. Each is reported once, from any thread; an implementation must not
// block.
class AttachmentEvents {
 public:
  virtual void targetGone(const Attachment& restore) = 0;
  // Its segment makes no sense, the kernel does not take its pages, or its source has changed.
  virtual void restoreFailed(const Attachment& restore, rpc::EndReason why, std::string text) = 0;

 protected:
  ~AttachmentEvents() = default;
};

// Opens the source of a restore: so many bytes, as its segment says. Must not wait for it.
using OpenSource = std::function<std::shared_ptr<const PageSource>(std::uint64_t bytes)>;

// Shared by the threads that work on it, ended when the last lets go. Constant but for the flags; any thread.
class Attachment {
 public:
  // Checks the segment (shm::SegmentError) and that it has slots for shard `index` with `workers` slots.
  // Takes the uffd; borrows `events`.
  Attachment(std::uint32_t index, std::uint32_t workers, kj::AutoCloseFd uffd, int segment,
             const OpenSource& openSource, AttachmentEvents& events);

  std::uint64_t id() const { return segment_.facts().restoreId; }
  std::string name() const { return segment_.name(); }
  std::uint32_t index() const { return index_; }
  int uffd() const { return uffd_.get(); }
  const PageSource& source() const { return *source_; }
  shm::Segment& segment() { return segment_; }
  shm::ShardCounters& counters() { return segment_.shardCounters(index_); }
  // The slot of the segment for this shard's worker `worker`.
  unsigned slot(unsigned worker) const { return segment_.firstSlot(index_) + worker; }
  bool owns(shm::PageIndex page) const { return segment_.ownerOf(page) == index_; }
  // Removals can come, so sections must be short.
  bool removeNegotiated() const { return removeNegotiated_; }
  // Removals have come lately: sections must be shorter still.
  bool removesLately(std::uint64_t now) {
    return removals_.lately(segment_.counters().removes.load(std::memory_order_relaxed), now);
  }

  // Pages come write-protected so that the target's dirty tracking sees them as clean. Cleared for good when
  // the kernel says that the ranges are not registered for it.
  uffd::Protect protect() const {
    return protect_.load(std::memory_order_relaxed) ? uffd::Protect::yes : uffd::Protect::no;
  }
  void stopProtecting() { protect_.store(false, std::memory_order_relaxed); }

  // A page that the source cannot give costs the target its life: the coordinator's to do.
  bool killsOnLost() const { return segment_.facts().policy.killOnLost != 0; }

  // The pages that come with a fault on this one, of 4 KiB; counts the fault.
  shm::PageRange around(shm::PageIndex page) { return neighbourhood_.around(page); }
  // These pages are about to be touched (Neighbourhood).
  void expect(shm::PageRange pages) { neighbourhood_.expect(pages); }

  // True when the attachment is not to be served any more.
  bool ended() const { return ended_.load(std::memory_order_relaxed); }
  // Ends the attachment. True for the first caller.
  bool end() { return !ended_.exchange(true); }
  // Ends the attachment and reports it: the rest is the coordinator's to do.
  void targetGone() {
    if (end()) events_.targetGone(*this);
  }
  void fail(rpc::EndReason why, std::string text);
  // Why it cannot be served; nothing: it can, or its target has gone, or it was detached.
  std::optional<std::string> failure() const;

 private:
  const std::uint32_t index_;
  kj::AutoCloseFd uffd_;
  shm::Segment segment_;
  const std::shared_ptr<const PageSource> source_;
  const bool removeNegotiated_;
  AttachmentEvents& events_;
  std::atomic<bool> protect_;
  std::atomic<bool> ended_{false};
  mutable threads::Mutex mutex_;
  std::optional<std::string> failure_ GUARDED_BY(mutex_);
  Neighbourhood neighbourhood_;
  Removals removals_;
};

using AttachmentRef = std::shared_ptr<Attachment>;

// Writes into the segment what a worker is busy with, from the first look at the source to the end of the
// section. For diagnosis: no recovery rests on it, but a page at which one shard after the other dies is
// found by it.
class Inflight {
 public:
  Inflight(Attachment& restore, unsigned worker, shm::PageRange range);
  ~Inflight() { slot_.inflightCount.store(0, std::memory_order_relaxed); }
  Inflight(const Inflight&) = delete;

 private:
  shm::Slot& slot_;
};

}  // namespace faultline::shard
