// The steps that a target's memory goes through before its restore is over: what it still misses becomes an error, then
// all that it has registered is unregistered.
//
// In this order, since the mark of a poisoned page outlives the registration and the userfaultfd, while a
// page that is missing and registered no more reads as zeros: wrong bytes (fs/userfaultfd.c,
// mm/userfaultfd.c; Linux 6.6 and later).
#pragma once

#include <kj/async.h>
#include <kj/io.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "shmtracker/segment.h"

namespace faultline::coordinator {

struct DepartureOrder {
  kj::AutoCloseFd uffd;  // a duplicate of its own
  std::vector<shm::RegionEntry> regions;
  enum class Poison {
    nothing,  // no page is missing
    missing,  // pages that are missing by the segment, each under the read side of the lock
    unmapped,  // pages that are not in place, whatever a segment says: that of a restore that has failed cannot be
               // trusted
  } poison = Poison::nothing;
  // Needed for Poison::missing; otherwise -1, or one to be trusted: memory that it says is registered no more is not searched
  // page by page for what may be.
  kj::AutoCloseFd segment{};
  // For Poison::missing: a slot of the lock that no shard uses any more.
  unsigned slot = 0;
  // Places to look for memory that no region names: process behind the pidfd (-1: not known), and addresses there that
  // have faulted.
  kj::AutoCloseFd target{};
  std::vector<std::uint64_t> faultedOutside{};
};

struct Departed {
  std::uint64_t poisoned = 0;  // pages
  // The kernel cannot poison: nothing was unregistered, so that no thread of the target goes on with zeros.
  bool unsupported = false;
  // Bytes of the regions that the kernel does not unregister, and the first of their addresses. Threads that fault there go
  // on waiting for an answer.
  std::uint64_t kept = 0, firstKept = 0;
  std::uint64_t unnamed = 0;  // bytes of memory that no region names, which were registered and are no more
};

// Does all of it in a thread of its own: each of these calls waits for the target's mmap_lock, which a target
// can hold for seconds. Shards may have no section on the restore any more (Poison::missing), and its events
// must be read on meanwhile: while one is in flight the kernel refuses to poison. Resolves in the loop that
// calls.
kj::Promise<Departed> depart(DepartureOrder order);

// Whether any page of the regions is registered still, in whatever way; asked page by page, in a thread of its
// own, and true where the kernel does not tell because an event is in flight.
kj::Promise<bool> anyRegistered(DepartureOrder order);

}  // namespace faultline::coordinator
