// The release of a restore's large ranges that are zero for good, holes of its source and what the target has given up
// (coordinator/releasable_memory.h): they are unregistered, so the kernel alone answers for them, and marked in the page
// table. The target's touches there cost what they cost without a userfaultfd, and its removals there are not told.
// Holes are looked for once, as the restore begins; what was removed, a moment after its removal was published.
//
//   look, in a thread of its own -> some ranges: unregister, wake, in a thread of its own -> mark, under the write side
//                                   ^ until none is left, or no more may be                                          |
//                                   +--------------------------------------------------------------------------------+
//
// A range is marked after the kernel has unregistered it, never before: a fault there that came before is answered with
// zeros as long as it is registered. A fault can be lost that arrives as its range is unregistered (the kernel wakes first
// and waits for the target's faults in flight afterwards: fs/userfaultfd.c, userfaultfd_unregister), so each range is woken
// once more. A coordinator that dies in between leaves ranges that are unregistered and not marked: its successor does the
// same again, which changes nothing, and wakes every thread as it takes over.
#pragma once

#include <kj/async-io.h>
#include <spdlog/common.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "coordinator/reading_turns.h"
#include "coordinator/releasable_memory.h"
#include "coordinator/removed_runs.h"
#include "failpoints/failpoints.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only.
class RangeRelease {
 public:
  class Owner {
   public:
    // Runs `mark` under the write side. Fails where that is not to be had any more.
    virtual kj::Promise<void> exclusively(std::function<void(const shm::ExclusiveGuard&)> mark) = 0;
    // The pages are released: nothing of them is to be looked for.
    virtual void released(const std::vector<shm::PageRange>& pages) = 0;

   protected:
    ~Owner() = default;
  };

  // Borrows all.
  RangeRelease(kj::AsyncIoContext& io, ReadingTurns& turns, failpoints::Failpoints& failpoints,
               shm::Segment& segment, Owner& owner);
  // Work under way in a thread ends when the kernel lets it, and goes no further.
  ~RangeRelease();
  RangeRelease(const RangeRelease&) = delete;

  // Once. Duplicates the fds. `target`: pidfd of the process that has the memory.
  void begin(int uffd, int target, const SourceFiles& files, const std::vector<SourceLayer>& were);
  // Releases a moment later what is large enough of these pages, removed and marked so, and of what was removed beside them.
  // Does nothing before begin(), which finds by itself what was removed until then, and after stop().
  void removed(const shm::PageRange& pages);
  // Begins nothing more. Resolves when nothing is under way at the target; never fails.
  kj::Promise<void> stop();

 private:
  struct Shared;
  struct Order;
  struct Chosen;
  struct Tried;

  void follow(std::function<kj::Promise<void>()> work);
  kj::Promise<void> releaseHoles(std::vector<LayerToLookAt> layers);
  kj::Promise<void> findRemoved(shm::PageIndex from);
  void takeUpRemoved();
  kj::Promise<void> releaseRemoved();
  std::shared_ptr<Order> newOrder() const;
  kj::Promise<void> look(const std::shared_ptr<Order>& order, ReleasableMemory (*lookAt)(Order& order));
  void failed(const kj::Exception& exception);
  kj::Promise<void> next();
  bool choose(std::vector<Chosen>& some);
  kj::Promise<void> release(std::vector<Chosen> some);
  kj::Promise<void> unregister(std::vector<Chosen> some);
  kj::Promise<void> unregistered(Tried tried);
  void giveBack(const Tried& tried);
  kj::Promise<void> whileHeld(failpoints::Point point, shm::PageIndex page);
  kj::Promise<void> mark(std::vector<shm::PageRange> left);
  bool joins(const ReleasableRange& range) const;
  void tell(const char* what, spdlog::level::level_enum level);

  kj::AsyncIoContext& io_;
  ReadingTurns& turns_;
  failpoints::Failpoints& failpoints_;
  shm::Segment& segment_;
  Owner& owner_;
  const std::shared_ptr<Shared> shared_;  // with the threads
  kj::AutoCloseFd target_;                // pidfd; -1 before begin()
  RemovedRuns removed_;
  bool takesUp_ = false;  // releaseRemoved() is to come
  bool full_ = false;     // ranges were kept registered that would have split a mapping
  bool keptTold_ = false;
  bool failureTold_ = false;
  ReleasableMemory found_;
  int error_ = 0;                                    // for which no more of found_ are released
  std::size_t next_ = 0;                             // of found_.ranges
  std::uint64_t ranges_ = 0, bytes_ = 0, kept_ = 0;  // released; ranges that are not
  kj::Canceler looking_;
  kj::ForkedPromise<void> running_;
};

}  // namespace faultline::coordinator
