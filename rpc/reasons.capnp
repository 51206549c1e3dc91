# Why a call is refused and why a restore has ended, for programs. Numbers are added, never reused.
@0xe6b2a9c3417f5d08;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");

enum Reason {
  # Of a call that fails. An RPC exception has a text alone, so its text begins with the reason's name in brackets:
  # "[notFound] no restore is called vm7". Some libraries put "remote exception: " before it. A name that a client
  # does not know is of a later server: then it is to be treated as failed.
  failed @0;        # something that no other reason covers: the text says what
  badInput @1;      # an argument that can never be right; the text names it
  notFound @2;      # there is nothing of that name
  nameTaken @3;     # there is something of that name
  ended @4;         # the restore is over
  wrongPhase @5;    # not in the phase that the restore is in (paused already, failed, ...)
  pagesMissing @6;  # pages would be lost to a target
  limitReached @7;  # as many as are allowed, or as there is room for
  unsupported @8;   # not by this build, or not on this machine
  badSource @9;     # the source cannot be used
  badTarget @10;    # the userfaultfd or the regions cannot be served
  forbidden @11;    # not to this peer, or not in a server that was started like this
  notReady @12;     # a process of the server is being replaced, or stands still: try again
  otherBuild @13;   # the build cannot take over
  ending @14;       # the service is ending: it takes nothing new
}

enum EndReason {
  # Of a restore that is over, and of one that has failed. The failed ones come last, from pageLost on.
  notEnded @0;        # it is served
  completed @1;       # no page is missing: the target runs on alone
  detached @2;        # by Restore.detach
  shutDown @3;        # with the service
  targetGone @4;      # its memory has gone
  targetKilled @5;    # it was killed for a lost page, as its policy says
  lostAtShutdown @6;  # with the service, while pages were missing
  pageLost @7;        # a page is lost, and the target could neither be told nor killed
  segmentDamaged @8;  # its shared memory makes no sense
  kernelRefused @9;   # the kernel does not take its pages, or tells what is not understood
  notServable @10;    # shards cannot serve it
  serverFailed @11;   # a fault of the server: the text says what
  sourceChanged @12;  # its source is not what it was when the restore began
}
