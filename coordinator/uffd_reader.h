// Reads the events of one uffd, the way that keeps old bytes out of removed pages:
//
//   close the gate -> drain -> read() into the journal -> publish every REMOVE -> clear -> open -> hand faults out
//
// Where removals can come, the uffd is read only under the write side, so no commit section ever spans a
// read(). See docs/protocol.md.
#pragma once

#include <kj/async-io.h>

#include <functional>
#include <optional>
#include <vector>

#include "coordinator/fault_router.h"
#include "coordinator/options.h"
#include "coordinator/reading_turns.h"
#include "coordinator/removed_ranges.h"
#include "failpoints/failpoints.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Work that the reader needs done by its owner.
struct UffdReaderHooks {
  // Ends the process that uses this slot; true once it can do nothing more, false: not yet, ask again.
  std::function<bool(unsigned slot)> fence;
  // A fault on a page that is there, whose write protection or missing mapping holds the thread up; after answerAlone(),
  // any. Called while the gate is open.
  std::function<void(const uffd_msg& fault)> presentFault;
  // A fault at an address that no region covers. Called while the gate is open.
  std::function<void(const uffd_msg& fault)> outsideFault;
  // The target has given up a part of a page that had not come: the page is released, so a fault on it gets an error.
  // Called while the gate is open.
  std::function<void(shm::PageIndex page)> partRemoved;
};

// Loop thread only. The uffd must be non-blocking.
class UffdReader {
 public:
  UffdReader(kj::AsyncIoContext& io, int uffd, shm::Segment& segment, FaultRouter& router,
             failpoints::Failpoints& failpoints, const Options& options, ReadingTurns& turns,
             UffdReaderHooks hooks);
  // Opens the gate, so that shards can leave.
  ~UffdReader();

  // Serves until dropped, beginning with what is pending. Fails where the uffd can't be read or the lock is
  // beyond repair.
  kj::Promise<void> run();

  // For a successor, before run(): drain, replay what the predecessor had read, check the page table, open.
  // Returns why the restore cannot be trusted any more; nothing where it can.
  kj::Promise<std::optional<std::string>> recover();

  // Runs `action` while no section is in flight, for what may change under the write side only. Waits its
  // turn. Fails, nothing read, where the lock is beyond repair; at once where that is known.
  kj::Promise<void> exclusively(std::function<void(const shm::ExclusiveGuard&)> action);

  // A paused reader leaves everything in the kernel's queue.
  void pause() { paused_ = true; }
  void resume();
  bool paused() const { return paused_; }

  // From now on no shard is asked: each fault is the owner's (presentFault).
  void answerAlone() { alone_ = true; }

  // Whether readers that hold the lock past its deadline are fenced; off only in tests.
  void setFencing(bool enabled) { fencing_ = enabled; }

 private:
  kj::Promise<void> waitReadable();
  kj::Promise<void> serve();
  kj::Promise<shm::ExclusiveGuard> drain();
  kj::Promise<shm::ExclusiveGuard> alone(kj::Promise<shm::ExclusiveGuard> drained);
  kj::Promise<shm::ExclusiveGuard> drainOn(unsigned next, std::uint64_t deadline);
  bool readable() const;
  enum class Batch { nothing, done, marking };
  Batch readBatch(std::optional<shm::ExclusiveGuard> guard);
  void addRemoval(const uffd_msg& message);
  void collectRemovals();
  void addPart(std::uint64_t address, std::uint64_t start, std::uint64_t end);
  bool publishSome(const shm::ExclusiveGuard& guard);
  kj::Promise<void> publishOn();
  kj::Promise<void> markOn();
  void finishBatch(std::optional<shm::ExclusiveGuard> guard);
  void addFault(const uffd_msg& message);
  [[noreturn]] void lockIsDamaged(unsigned slot);
  std::function<void(unsigned)> countOwnerDied();

  kj::AsyncIoContext& io_;
  const int uffd_;
  shm::Segment& segment_;
  FaultRouter& router_;
  failpoints::Failpoints& failpoints_;
  const Options& options_;
  ReadingTurns& turns_;
  UffdReaderHooks hooks_;
  kj::UnixEventPort::FdObserver observer_;
  const bool gated_;
  bool paused_ = false;
  bool flowing_ = false;   // the last read() brought something
  bool draining_ = false;  // a drain is under way: the gate is closed
  bool fencing_ = true;
  bool alone_ = false;                          // no shard is asked
  bool damaged_ = false;                        // the lock is beyond repair
  RemovedRanges removals_;                      // of this batch
  std::vector<shm::PageRange> toMark_;          // removed by this batch and not marked yet, the last first
  std::vector<shm::PageIndex> parts_;           // pages of which this batch has removed a part
  std::optional<shm::ExclusiveGuard> marking_;  // of a batch whose removals are marked in steps
  std::size_t messages_ = 0;                    // of this batch
  std::uint64_t readAt_ = 0;                    // ns, of this batch
  std::vector<uffd_msg> present_;               // faults of this batch on pages that are there
  std::vector<uffd_msg> outside_;               // faults of this batch that no region covers
  std::uint64_t closedAt_ = 0;                  // ns
  kj::Own<kj::PromiseFulfiller<void>> resumed_;
};

}  // namespace faultline::coordinator
