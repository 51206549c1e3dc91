# Test hooks: exist only in a server started with --test-hooks. Unset, a hook costs one predictable branch.
@0x9c0b6e1d5f7a4312;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");
using Fd = import "fd.capnp".Fd;
using Control = import "control.capnp";

enum FaultPoint {
  beforeReadLock @0;  # source bytes staged, no lock held
  beforeCopy @1;      # inside the commit section, state checked, before the ioctl
}

enum Action {
  park @0;  # the thread waits until it is released
  kill @1;  # SIGKILL to the own process
  stop @2;  # SIGSTOP to the own process
  pass @3;  # none: `reached` is signalled, and the thread goes on
}

interface Barrier {
  # A place where the next thread to come by is held, once.
  waitHeld @0 () -> ();
  # Returns when a thread is held (for `kill` and `stop`: never, watch the process instead).
  release @1 () -> ();
  # Lets the held thread go on, or disarms the barrier. Dropping the capability does the same.
}

interface ProcessHooks {
  arm @0 (point :Text, action :Action, page :UInt64, skip :UInt32, reached :Fd, resume :Fd, successor :Bool) -> (barrier :Barrier);
  # Arms a failpoint of this process (names: failpoints/failpoints.h). `page`: only there; 0xffffffffffffffff: anywhere.
  # `skip`: pass this many times first. `reached` (may be null): an eventfd that is signalled as a thread arrives,
  # before the action is taken; `resume` (may be null): an eventfd that a parked thread waits on instead of
  # Barrier.release, for when the parked thread is the one that serves the RPC. `successor`: arm it in the process
  # that takes over when this one dies (coordinator only; no barrier is returned).
}

interface TestHooks {
  installFaultBarrier @0 (restore :Text, page :UInt64, point :FaultPoint) -> (barrier :Barrier);
  # Parks the worker that serves `page`, in the shard that owns it.
  coordinator @1 () -> (hooks :ProcessHooks);
  # Those of the coordinator itself.
  shard @2 (index :UInt32) -> (hooks :ProcessHooks);
  # Those of a shard. Fails while it is not up.
  ownerOf @3 (restore :Text, page :UInt64) -> (shard :UInt32, pid :UInt32);
  # The index and the process of the shard that owns `page`. Fails while that is not up.
  setFencing @4 (enabled :Bool) -> ();
  # Whether a shard that holds the lock past its deadline is killed, for the restores that there are now.
  segment @5 (restore :Text) -> (segment :Fd);
  # For oracles that look at the shared memory itself.
}

interface TestCoordinator extends(Control.Coordinator) {
  # What the bootstrap capability is besides.
  testHooks @0 () -> (hooks :TestHooks);
  # Fails (forbidden) unless the server was started with --test-hooks.
}
