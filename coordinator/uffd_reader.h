// Reads the events of one uffd, the way that keeps old bytes out of removed pages:
//
//   close the gate -> drain -> read() into the journal -> publish every REMOVE -> clear -> open -> hand faults out
//
// Where removals can come, the uffd is read only under the write side (write_side.h), so no commit section ever
// spans a read(). The meaning of the events: event_publisher.h. See docs/protocol.md.
#pragma once

#include <kj/async-io.h>

#include <functional>
#include <optional>
#include <string>

#include "coordinator/event_publisher.h"
#include "coordinator/options.h"
#include "coordinator/reading_turns.h"
#include "coordinator/write_side.h"
#include "failpoints/failpoints.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Work that the reader needs done by its owner.
struct UffdReaderHooks {
  WriteSide::Fence fence;
  // Faults that no shard is asked for. Called while the gate is open.
  EventPublisher::Fault presentFault, outsideFault;
  EventPublisher::Part partRemoved;
  EventPublisher::Removed removed;
};

// Loop thread only. The uffd must be non-blocking.
class UffdReader {
 public:
  UffdReader(kj::AsyncIoContext& io, int uffd, shm::Segment& segment, FaultRouter& router,
             failpoints::Failpoints& failpoints, const Options& options, ReadingTurns& turns,
             UffdReaderHooks hooks);
  // Serves until dropped, beginning with what is pending. Fails where the uffd can't be read or the lock is
  // beyond repair.
  kj::Promise<void> run();

  // For a successor, before run(), with the gate closed, which it is until the end: drains, replays the journal, checks
  // the page table. The write side is taken meanwhile. Returns why the restore has to fail; nothing where it goes on. Fails
  // where the segment cannot be locked in memory, or the lock is beyond repair.
  kj::Promise<std::optional<std::string>> recover();

  // Runs `action` while no section is in flight and nothing is read. Waits its turn. Fails, the gate open, where the
  // lock is beyond repair; at once where that is known.
  kj::Promise<void> exclusively(std::function<void(const shm::ExclusiveGuard&)> action) {
    return writeSide_.exclusively(std::move(action));
  }

  // A paused reader leaves everything in the kernel's queue.
  void pause() { paused_ = true; }
  void resume();
  bool paused() const { return paused_; }

  // From now on no shard is asked for a page: each fault goes to the hooks.
  void answerAlone() { events_.answerAlone(); }

  // Whether readers that hold the lock past its deadline are fenced; off only in tests.
  void setFencing(bool enabled) { writeSide_.setFencing(enabled); }

 private:
  enum class Batch { nothing, done, marking };

  kj::Promise<void> waitReadable();
  kj::Promise<void> serve();
  kj::Promise<void> serveAfter(Batch batch);
  bool readable() const;
  bool readsUnderLock() const;
  shm::Journal readBuffer();
  std::optional<shm::ExclusiveGuard> lockAfterRead();
  Batch readBatch(std::optional<shm::ExclusiveGuard> guard);
  kj::Promise<void> publishOn();
  kj::Promise<void> markOn();
  void finishBatch(std::optional<shm::ExclusiveGuard> guard);

  kj::AsyncIoContext& io_;
  kj::Timer& timer_;
  const int uffd_;
  shm::Segment& segment_;
  failpoints::Failpoints& failpoints_;
  ReadingTurns& turns_;
  WriteSide writeSide_;
  EventPublisher events_;
  kj::UnixEventPort::FdObserver observer_;
  const bool gated_;
  bool paused_ = false;
  bool flowing_ = false;                        // the last read() brought something
  std::optional<shm::ExclusiveGuard> marking_;  // in a batch whose removals are marked in steps
  std::size_t messages_ = 0;                    // in this batch
  std::uint64_t readAt_ = 0;                    // ns, of this batch
  kj::Own<kj::PromiseFulfiller<void>> resumed_;
};

}  // namespace faultline::coordinator
