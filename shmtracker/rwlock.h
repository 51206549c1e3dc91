// The lock of one restore: a gate, and one robust mutex a reader ("big-reader lock").
//
// Readers are the shards' workers, each with a slot of its own; a read section is one look at the state, one
// ioctl, one store. The writer is the coordinator: it closes the gate, waits until every slot has been free
// once ("drain"), and only then calls read(uffd) and publishes what it read. A read section therefore never
// spans a read(), which is what keeps old bytes out of removed pages (docs/protocol.md).
//
//   reader: lock slot -> gate open? -> section -> unlock slot        (closed: unlock, wait for the gate)
//   writer: close gate -> lock and unlock each slot -> ... -> open gate
//
// Either the reader locks its slot after the writer's visit, then the mutex hand-over shows it the closed
// gate; or before, then the writer waits for it. Further ordering is not needed.
//
// A writer that dies leaves the gate closed: fail closed. Only its successor opens it, after drain and
// replay.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "shmtracker/layout.h"
#include "shmtracker/robust_mutex.h"

namespace faultline::shm {

class RwLock;

// Proof of holding the read side. Released by the destructor; same thread only.
class [[nodiscard]] SharedGuard {
 public:
  SharedGuard(SharedGuard&& other) noexcept : slot_(other.slot_), ownerDied(other.ownerDied) {
    other.slot_ = nullptr;
  }
  SharedGuard& operator=(SharedGuard&&) = delete;
  ~SharedGuard() { release(); }

  void release();

 private:
  friend class RwLock;
  SharedGuard(Slot& slot, bool died) : slot_(&slot), ownerDied(died) {}
  Slot* slot_;

 public:
  const bool ownerDied;  // the slot's last user died inside its section
};

// Proof of holding the write side: the gate is closed and no section is in flight.
// The destructor opens the gate, so a process that is to leave it closed must die, not unwind.
class [[nodiscard]] ExclusiveGuard {
 public:
  ExclusiveGuard(ExclusiveGuard&& other) noexcept : lock_(other.lock_) { other.lock_ = nullptr; }
  ExclusiveGuard& operator=(ExclusiveGuard&&) = delete;
  ~ExclusiveGuard() { release(); }

  void release();

 private:
  friend class RwLock;
  explicit ExclusiveGuard(RwLock& lock) : lock_(&lock) {}
  RwLock* lock_;
};

// A view of the lock words and slots in the segment. Any number of processes and threads may hold one.
class RwLock {
 public:
  RwLock(LockWords& words, std::span<Slot> slots) : words_(&words), slots_(slots) {}

  // To be called by the segment's creator, or by a successor that knows that no other process with the
  // segment is alive. Leaves the gate closed.
  void initialise();

  // Enters the read side through `slot` (< slots). A slot is used by a single thread at a time. Waits while
  // the gate is closed, so never call it while the thread's own restore needs an answer of the coordinator.
  // Throws SegmentError where the slot's mutex is damaged.
  SharedGuard lockShared(unsigned slot);
  // Enters the read side without waiting; empty where the gate is closed or the slot is held. Throws SegmentError
  // where the slot's mutex is damaged.
  std::optional<SharedGuard> tryLockShared(unsigned slot);

  // Closes the gate: no section begins any more. The coordinator is the only writer.
  void close();
  // A step of the drain of the first `activeSlots` slots: goes on from `next`, and waits at most `patience` for
  // each. Empty: slot `next` is held; call again, or fence its holder first. `ownerDied`: a slot whose owner had
  // died inside a section; it is recovered. Throws SegmentError where a slot's mutex is damaged.
  std::optional<ExclusiveGuard> drainFrom(unsigned& next, unsigned activeSlots,
                                          std::chrono::nanoseconds patience,
                                          const std::function<void(unsigned slot)>& ownerDied);

  // Opens the gate; for a writer that gives up between close() and the end of its drain, having read nothing.
  void open();

  bool closed() const { return words_->gate.load(std::memory_order_acquire) != 0; }
  std::uint64_t epoch() const { return words_->epoch.load(std::memory_order_acquire); }

 private:
  void waitForGate();

  LockWords* words_;
  std::span<Slot> slots_;
};

}  // namespace faultline::shm
