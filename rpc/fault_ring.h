// The way of fault batches from the coordinator to one shard: a ring of Cap'n Proto messages (FaultBatch of
// shard.capnp) in a memfd, with an eventfd as doorbell.
//
// Why beside the RPC: a call costs about 23 us of CPU over both ends, this a few hundred ns plus one wake.
// The ring has no recovery of its own: a process that takes over either end makes a new ring, and UFFDIO_WAKE
// brings back what was in the old one. A ring has one producer thread and one consumer thread. Neither end
// allocates or locks.
#pragma once

#include <kj/io.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "rpc/shard.capnp.h"

namespace faultline::rpc {

class FaultRing {
 public:
  static constexpr std::size_t PAGES_PER_MESSAGE = 56;

  // A new ring with its memory and doorbell.
  static FaultRing create();
  // The other end. Takes both fds. Throws FAILED where they are not a ring of this build.
  static FaultRing attach(kj::AutoCloseFd memory, kj::AutoCloseFd doorbell);

  FaultRing(FaultRing&&) noexcept;
  ~FaultRing();

  int memoryFd() const { return memory_.get(); }
  int doorbellFd() const { return doorbell_.get(); }

  // --- producer ---
  // Queues the faults, in as many messages as it takes; all or none. false: no room, or the ring is damaged.
  bool push(std::uint64_t restore, std::uint64_t readAt, std::span<const std::uint64_t> pages);
  // Wakes the consumer if it sleeps. To be called once after all pushes of a drain.
  void ring();

  // --- consumer ---
  // Calls `visit` for the oldest message, which stays in place until it returns. false: the ring was empty.
  // A message that is no valid FaultBatch throws; it is skipped by the next call.
  bool pop(const std::function<void(FaultBatch::Reader)>& visit);
  bool empty() const;
  // To be called before sleeping on doorbellFd(), edge-triggered since the doorbell is never read: true means
  // sleep, false that a message has just come.
  bool prepareToSleep();
  // To be called after waking for any reason: the doorbell need not ring.
  void awake();

 private:
  struct Memory;
  FaultRing(kj::AutoCloseFd memory, kj::AutoCloseFd doorbell);

  kj::AutoCloseFd memory_;
  kj::AutoCloseFd doorbell_;
  Memory* shared_ = nullptr;
  std::uint32_t next_ = 0;  // the end's own position: never taken from the shared memory
};

}  // namespace faultline::rpc
