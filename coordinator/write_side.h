// The write side of a restore's lock: closes the gate, waits until no section is in flight (the drain), and ends
// a reader that does not come out of its section (the fence). Other code does none of this.
//
//   close() -> tryDrain(), and drained() where that gave nothing -> what must be alone -> open()
//
// The loop serves others while a section is waited for.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "coordinator/options.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only. A single caller holds it or drains: taken().
class WriteSide {
 public:
  // Ends the process that uses this slot; true once it can do nothing more, false: not yet, ask again.
  using Fence = std::function<bool(unsigned slot)>;

  // Borrows `segment` and `options`.
  WriteSide(kj::Timer& timer, shm::Segment& segment, const Options& options, Fence fence);
  WriteSide(const WriteSide&) = delete;
  // Opens the gate, so that shards can leave.
  ~WriteSide();

  // Another is draining, or holds it: close() is not to be called before that is over.
  bool taken() const { return taken_; }
  // When it may be free: to be asked again then.
  kj::Promise<void> later() const;

  // Closes the gate, and waits for no section.
  void close();
  // Waits a moment for each section in flight. Empty: one takes longer, and the gate stays closed.
  std::optional<shm::ExclusiveGuard> tryDrain();
  // Waits as long as it takes; a section in flight at the deadline (Options::lockDeadline, from close() on) costs its
  // process its life. Fails with shm::SegmentError where the lock is beyond repair.
  kj::Promise<shm::ExclusiveGuard> drained();
  // Opens the gate after a batch.
  void open(shm::ExclusiveGuard guard);

  // Takes it until `work` is done, fails or is dropped.
  template <typename T>
  kj::Promise<T> alone(kj::Promise<T> work) {
    taken_ = true;
    return work.attach(kj::defer([this] { taken_ = false; }));
  }
  // Runs `action` while no section is in flight, for what may change under the write side only. Waits its
  // turn. Fails, the gate open, where the lock is beyond repair; at once where that is known.
  kj::Promise<void> exclusively(std::function<void(const shm::ExclusiveGuard&)> action);

  // Whether readers that hold the lock past its deadline are fenced; off only in tests.
  void setFencing(bool enabled) { fencing_ = enabled; }

 private:
  kj::Promise<shm::ExclusiveGuard> drainOn();
  [[noreturn]] void lockIsDamaged(unsigned slot);

  kj::Timer& timer_;
  shm::Segment& segment_;
  const Options& options_;
  const Fence fence_;
  bool taken_ = false;
  bool fencing_ = true;
  bool damaged_ = false;        // the lock is beyond repair
  unsigned next_ = 0;           // slot that is to be drained
  std::uint64_t closedAt_ = 0;  // ns
};

}  // namespace faultline::coordinator
