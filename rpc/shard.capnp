# Between the coordinator and its shards. Internal: both ends are always of the same build family; `hello` says
# which, so that a live upgrade can tell.
@0xd4a1f0b27c3e8895;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");
using Control = import "control.capnp";
using Fd = import "fd.capnp".Fd;
using Hooks = import "hooks.capnp";
using Reasons = import "reasons.capnp";

struct FaultBatch {
  # Faults of one restore, read from its uffd in one go, for one shard. Carries no decision: the shard looks at
  # the shared state under the lock. Losing a batch loses nothing: UFFDIO_WAKE makes the threads fault again.
  restore @0 :UInt64;       # its id
  readAt @1 :UInt64;        # ns, CLOCK_MONOTONIC
  pages @2 :List(UInt64);   # page indexes
}

struct FetchedLayer {
  # What belongs to a layer that is a cache's data.
  layer @0 :UInt32;         # its position
  map @1 :Fd;               # which chunks the data has (rpc/fetch_map.h), open for reading
  ring @2 :Fd;              # where to ask for the others (rpc/fetch_ring.h)
}

interface ShardEvents {
  # What a shard has to say without being asked.
  targetGone @0 (restore :UInt64) -> ();
  # The kernel answered ESRCH: the target's memory is gone.
  pagePoisoned @1 (restore :UInt64, page :UInt64, reason :Text) -> ();
  # The source could not give a page; the target gets SIGBUS on it.
  pageLost @2 (restore :UInt64, page :UInt64, reason :Text) -> ();
  # The source could not give a page, which is not answered: the operator wants the target killed, or the kernel cannot poison
  # (before Linux 6.6).
  restoreFailed @3 (restore :UInt64, why :Reasons.EndReason, text :Text) -> ();
  # This shard can't serve the restore at all.
}

interface Shard {
  hello @0 (events :ShardEvents) -> (version :Text, restores :List(UInt64), image :Text);
  # First call on every connection. Returns the ids of the restores that are attached (a successor asks), and the
  # program that it runs: `image` differs for any two builds, whatever their versions say (process/build.h).
  useRing @1 (ring :Fd, doorbell :Fd) -> ();
  # Fault batches come through this shared-memory ring (rpc/fault_ring.h) from now on; replaces an earlier ring.
  attach @2 (restore :UInt64, index :UInt32, uffd :Fd, segment :Fd, layers :List(Control.Layer), fetched :List(FetchedLayer)) -> ();
  # Serves a restore as its shard number `index`. `layers`: its source, as in SourceSpec. `fetched`: those of them that are
  # a cache's data, which the fetcher fills. Attaching what is attached is a no-op.
  detach @3 (restore :UInt64) -> ();
  # Returns when nothing of the restore is used any more.
  faults @4 (batch :FaultBatch) -> stream;
  # The same as through the ring, for when that is full or not used.
  prefault @5 (restore :UInt64, job :UInt64, ranges :List(Control.PageRange)) -> ();
  # Populates the ranges in order; with no ranges every extent it owns. Returns when done or cancelled.
  cancelPrefault @6 (restore :UInt64, job :UInt64) -> ();
  # Has that call of `prefault` end soon. No error where there is none.
  poison @7 (restore :UInt64, pages :List(UInt64), reason :Text) -> ();
  # Gives the pages up: an error for the target where they are still missing.
  hooks @8 () -> (hooks :Hooks.ProcessHooks);
  # Fails unless the shard was started for tests.
  populateAtMost @9 (bytesPerSecond :UInt64) -> ();
  # How fast the background populations of all its restores together may be; 0, as in the beginning: as fast as they can.
  ping @10 () -> ();
  # Answered by way of the fault thread: no answer means that faults are not being served.
}
