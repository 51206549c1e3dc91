# The control interface of faultline: what operators, VMMs and tests say to the coordinator.
#
# Reached over a Unix stream socket (Cap'n Proto two-party RPC); the bootstrap capability is Coordinator.
# File descriptors travel with a call as Fd capabilities. Capabilities end with the connection, restores do not:
# after a disconnect (the coordinator died and its successor took over) connect again and ask for the restore by
# its name.
#
# A call that fails is an RPC exception. Its text begins with the reason in brackets (reasons.capnp, Reason); one of
# type DISCONNECTED, without a reason, means that the coordinator has gone.
@0xc4d86e1f92a7b350;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");
using Fd = import "fd.capnp".Fd;
using Reasons = import "reasons.capnp";

struct Region {
  # A contiguous address range of the target backed by a contiguous range of the source. All in bytes.
  base @0 :UInt64;      # address in the target; a multiple of pageSize, as the two below
  size @1 :UInt64;      # not 0
  offset @2 :UInt64;    # in the source
  pageSize @3 :UInt64;  # 4096, or 2097152 for hugetlb; 0 means 4096
}

struct PageRange {
  # Pages by their dense number over all regions of the restore, regions ordered by address.
  first @0 :UInt64;  # the first page's number
  count @1 :UInt64;  # pages; in a call 0 means: up to the restore's last page
}

enum PageState {
  missing @0;   # never populated: the source holds the truth
  faulted @1;   # was populated once
  removed @2;   # given up by the target: reads as zeros
  released @3;  # registered no more: the kernel alone answers for it, or the target has something else there
}

struct PageRun {
  # Neighbouring pages of one state.
  pages @0 :PageRange;  # at least one page
  state @1 :PageState;  # of all of them, when it was looked at
}

enum Phase {
  serving @0;   # faults are answered
  paused @1;    # by Restore.pause: they wait
  complete @2;  # no page is missing any more
  failed @3;    # cannot be served; `RestoreInfo.failure` says why
}

struct OwnerRun {
  # Neighbouring pages of one owner.
  pages @0 :PageRange;  # at least one page
  shard @1 :UInt32;     # the owner's index
}

enum OnLost {
  # What a target gets when a page is lost: its source is gone for good, or the restore cannot be served any more.
  poison @0;  # an error on each such page, as it touches it (SIGBUS)
  kill @1;    # SIGKILL, by its pidfd, before any thread of it goes on without its page
}

struct SourceRange {
  # A part of the source. All in bytes.
  offset @0 :UInt64;  # where it begins
  size @1 :UInt64;    # it ends within the source
}

struct WorkingSet {
  # What is to be populated first, as it was recorded in another restore from the same source.
  pageSize @0 :UInt64;             # the smallest of the regions it was recorded with
  ranges @1 :List(SourceRange);    # in the order wanted, at most 1048576; parts that no region covers are ignored
}

struct RestorePolicy {
  # How a restore is served: what its operator chooses, and what does not follow from target or source.
  prefault @0 :Bool;          # populate everything in the background from the start
  keepServing @1 :Bool;       # do not release the target when no page is missing any more
  onLost @2 :OnLost;          # kill is refused where no pidfd of the target can be had
  recordWorkingSet @3 :Bool;  # note the first touches; a page that is populated before it is touched is not seen
  workingSet @4 :WorkingSet;  # populated before everything else, in its order
  around @5 :UInt32;          # bytes that come with a fault on a 4 KiB page, aligned to as many in the source: 4096 (its
                              # page alone), 8192, 16384, 32768 or 65536; 0: up to 64 KiB, as the faults around it tell.
                              # 4096 where recordWorkingSet is set.
  keepRegistered @6 :Bool;    # all memory stays registered; else large ranges that are zero for good are unregistered, and
                              # the kernel alone answers for them (released)
}

struct Layer {
  # A file that a source is made of.
  file @0 :Fd;      # open for reading
  name @1 :Text;    # for messages
  packed @2 :Bool;  # a packed image (docs/packed.md), whose pages are unpacked as they are wanted
}

struct SourceSpec {
  # Where the bytes of a restore come from.
  union {
    layers @0 :List(Layer);  # top first, 1 to 32: what is a hole in one is asked of the next, in the last it is zero.
                             # A snapshot's memory file is one layer. All are of one size; none is there twice; the
                             # holes of each but the last are those of a differential snapshot, and its file system
                             # tells them (else badSource). One that changes fails the restore (sourceChanged).
    uri @1 :Text;            # of an export of an NBD server (docs/nbd.md), or of an RBD image, an object of S3 or a file
                             # of a web server (docs/remote.md)
  }
}

struct RestoreInfo {
  name @0 :Text;            # as `Coordinator.restore` takes it
  id @1 :UInt64;            # unique over the life of the service
  phase @2 :Phase;          # where it stands
  policy @3 :RestorePolicy; # as it was begun, without the working set
  sourceName @4 :Text;      # what the source is called, for people
  targetPid @5 :UInt32;     # 0 where unknown; for people, no decision rests on it
  regions @6 :List(Region); # by address, as their pages are numbered
  pages @7 :UInt64;         # in all
  missing @8 :UInt64;       # pages that are missing now
  faulted @9 :UInt64;       # pages that are faulted now
  removed @10 :UInt64;      # pages that are removed now
  released @11 :UInt64;     # pages that are released now
  removeNegotiated @12 :Bool;  # the target's uffd has UFFD_FEATURE_EVENT_REMOVE
  failure @13 :Reasons.EndReason;  # notEnded unless phase is failed
  failureText @14 :Text;      # the same for people; empty unless phase is failed
  prefaulting @15 :Bool;      # pages are being populated in the background
  recording @16 :Bool;        # first touches are being recorded
  workingSetRefused @17 :Text;  # why the working set that was given is not used; empty unless it is refused
  segmentBytes @18 :UInt64;   # memory that tracker, journal and counters take
  ageNs @19 :UInt64;          # since the restore began
  waitingThreads @20 :UInt64; # of the target, that wait for a page now; 0 where the kernel does not tell
  populationHeld @21 :Text;   # why pages are not populated in the background though that was asked for; empty: they are,
                              # or it was not
}

struct Latency {
  # Quantiles in ns, from a histogram with a relative error of at most 1/8.
  samples @0 :UInt64;       # how many durations were recorded
  p50 @1 :UInt64;           # ns; half of them were below; 0 where there are none
  p99 @2 :UInt64;           # ns; 99 % were
  p999 @3 :UInt64;          # ns; 99.9 % were
  sum @4 :UInt64;           # ns, of all of them
  buckets @5 :List(UInt64); # sample counts; bucket bounds are those of shmtracker/counters.h; what is empty at the
                            # end is left out
}

struct ShardStats {
  # Of one shard, for one restore. Numbers of pages unless said otherwise.
  shard @0 :UInt32;           # its index
  faultsTaken @1 :UInt64;     # handed to it because threads fault there
  copied @2 :UInt64;          # populated with source bytes
  zeroed @3 :UInt64;          # zero in the source (a hole, or 4 KiB that were looked at): populated with zeros
  zeroedRemoved @4 :UInt64;   # answered with zeros because the target had given the page up
  alreadyPresent @5 :UInt64;  # found in place, only woken
  refused @6 :UInt64;         # tries that the kernel refused with EAGAIN
  requeued @7 :UInt64;        # given back to the kernel with UFFDIO_WAKE
  poisoned @8 :UInt64;        # lost: the target gets SIGBUS on them
  dropped @9 :UInt64;         # range gone
  outOfMemory @10 :UInt64;    # tries
  prefaulted @11 :UInt64;     # of copied and zeroed, those that no fault asked for
  coldReads @12 :UInt64;      # pages that had to wait for the source's disk
  sourceBytes @13 :UInt64;    # bytes taken from the source
  sourceErrors @14 :UInt64;   # tries
  slotsRecovered @15 :UInt64; # sections that a dead thread had left, met by the worker that has its slot now
  eventToDone @16 :Latency;   # fault read from the uffd until its page was in place
  gateWait @17 :Latency;      # a section's way into the lock
  staging @18 :Latency;       # getting source bytes ready: of a fault one page, of a population up to 2 MiB
  copying @19 :Latency;       # one ioctl: of a fault one page, of a population up to 512
  extents @20 :UInt32;        # extents owned
  around @21 :UInt64;         # of copied and zeroed, those that came with a fault on a neighbour
}

struct RestoreStats {
  batches @0 :UInt64;         # read()s of the uffd that returned something
  faults @1 :UInt64;          # fault messages
  removes @2 :UInt64;         # REMOVE messages
  removedPages @3 :UInt64;    # pages in them; one that a batch names twice counts once
  replayed @4 :UInt64;        # messages that a successor found in the journal
  fences @5 :UInt64;          # shards killed for holding the lock past its deadline
  slotsRecovered @6 :UInt64;  # sections that a dead thread had left, met while draining
  adoptions @7 :UInt64;       # coordinators that took over
  wakes @8 :UInt64;           # times all waiting threads were woken after a death
  drain @9 :Latency;          # closing the gate and waiting for the sections in flight
  closed @10 :Latency;        # from closing the gate to opening it
  shards @11 :List(ShardStats);  # by index: those that own a part of the restore, or have done something for it
  outsideFaults @12 :UInt64;  # faults at addresses that no region covers
  firstPageNs @14 :UInt64;    # from the restore's begin to its first page in place for a fault; 0: none as yet
  readTimes @13 :UInt64;      # when the faults were read, ns of CLOCK_MONOTONIC: the sum, modulo 2^64. A target on
                              # the same machine that has the sum of when it touched knows how long they waited
}

interface Prefault {
  # Background population that was asked for. Dropping the capability does not cancel it.
  progress @0 () -> (missing :UInt64, total :UInt64, finished :Bool);
  # `missing`: pages of the requested ranges that still are; `total`: all of them. Once the restore is over, `missing`
  # is what it ended with, in all, and `total` is 0. `finished`: every shard has gone through its part, or the restore
  # has failed.
  wait @1 () -> ();
  # Returns when it is finished, cancelled ones too, or the restore has failed or is over. A page that could not be had (its
  # source fails, or there is no memory for a 2 MiB page) is still missing then: it is left to its fault.
  cancel @2 () -> ();
  # Returns when no shard populates for this request any more.
}

interface RecordedWorkingSet {
  # The pages that a target touched first, in that order, as the coordinator read their faults. Can be asked while
  # the restore runs and after it has ended, as long as the connection lasts.
  pages @0 (first :UInt64) -> (pages :List(UInt64), recorded :UInt64, lost :UInt64);
  # Pages by number, from position `first` on, at most 65536 of them: ask on behind the last. `recorded`: how many
  # there are; `lost`: first touches for which there was no room.
  snapshot @1 () -> (regions :List(Region), source :SourceSpec);
  # What turns their numbers into places in the source, and the source itself.
}

interface Restore {
  # Once it is over, every call but waitEnded and workingSet fails.
  info @0 () -> (info :RestoreInfo);
  # What it is and how far. Looks at every page's state.
  waitReady @1 () -> ();
  # Returns when every shard that owns a part of it serves it, or when it has failed or is over.
  waitComplete @2 () -> (info :RestoreInfo);
  # Returns when no page is missing any more, or when the restore has failed or is over before that (`missing` is
  # not 0 then).
  pageStates @3 (pages :PageRange) -> (runs :List(PageRun));
  # States of `pages` (count 0: to the end) as runs, in order. An answer has at most 65536 runs, of at most 16777216
  # pages; ask on from the end of the last. Fails where the range reaches past the last page.
  pause @4 () -> ();
  # Stops reading the uffd, so that faults and removals queue up in the kernel, and holds background population.
  # An error unless the phase is serving.
  resume @5 () -> ();
  # Reads again, beginning with what has queued up. Resuming what is not paused is an error.
  prefault @6 (ranges :List(PageRange)) -> (prefault :Prefault);
  # Populates in the background, demand faults first: the ranges in the given order (a recorded working set), or
  # with no ranges every page, all shards in parallel. At most 65536 ranges, and no page in two of them. Fails where a
  # range reaches past the last page, and where the restore has failed.
  stats @7 () -> (stats :RestoreStats);
  # Counters and latencies since it began, under former coordinators as well.
  detach @8 (force :Bool) -> ();
  # Ends the restore and gives everything back: the target's ranges are unregistered and it runs on without a
  # server. Refused while pages are missing, unless `force`: then the target gets SIGBUS on them, or is killed
  # (RestorePolicy.onLost).
  waitEnded @9 () -> (reason :Reasons.EndReason, text :Text, missing :UInt64);
  # Returns when the restore is over, with why, the same for people, and the pages that were missing then. One that
  # has failed is over when its target has gone, and keeps the reason of its failure.
  workingSet @10 () -> (workingSet :RecordedWorkingSet);
  # Fails where this restore does not record (RestorePolicy.recordWorkingSet).
  owners @11 (pages :PageRange) -> (runs :List(OwnerRun));
  # Which shard is asked for each of `pages`, as for pageStates.
}

struct AttachSpec {
  name @0 :Text;              # at most 50 characters, none of them '.', ':', '/' or blank; a number comes behind
                              # it where another restore has it; empty: "restore"
  regions @1 :List(Region);   # 1 to 4096, without overlap, in any order; each inside the source
  policy @2 :RestorePolicy;   # of the restore
}

struct ListenSpec {
  # Of a handshake socket.
  name @0 :Text;              # not empty, and no other listener's; restores are called NAME, NAME-2, NAME-3, ...
  policy @1 :RestorePolicy;   # of the restore of each target
  anyUser @2 :Bool;           # accept peers of any uid; otherwise only root's and the server's own
  keepRefused @3 :Bool;       # a target that is refused waits where it faults, and may try again with the same userfaultfd;
                              # otherwise it gets an error (SIGBUS) on every page that it named
}

struct SocketFile {
  # A Unix stream socket that the server makes. It is removed with what is served there.
  path @0 :Text;   # absolute. A socket that is there and that no process serves is replaced; another file is not
  owner @1 :Text;  # a user's name or number; empty: the server's. Set, as the two below, before anyone can connect
  group @2 :Text;  # a group's name or number; empty: the server's
  mode @3 :UInt16; # permission bits; 0 means 0600
}

struct PlacedListener {
  # A handshake socket by the paths of what belongs to it.
  spec @0 :ListenSpec;      # as for listen
  socket @1 :SocketFile;    # where targets come
  layers @2 :List(Text);    # absolute paths of memory files, or URIs: top first, as SourceSpec.layers
}

enum ListenerOrigin {
  # Who made a listener. A configuration or a command line that is read anew changes and removes what is its own, never
  # another's. `unlisten` and Listener.close close any; one of the two others is there again when these are read next.
  commandLine @0;    # an option of `faultline serve`
  configuration @1;  # a file that the service reads
  call @2;           # a call at run time
}

struct ListenerInfo {
  name @0 :Text;            # its restores are called NAME, NAME-2, ...
  origin @1 :ListenerOrigin; # who made it
  path @2 :Text;            # of its socket; empty where it has none in the file system
  layers @3 :List(Text);    # what its targets are restored from, top first
  policy @4 :RestorePolicy; # of the restores of new targets, without the working set
  anyUser @5 :Bool;         # peers of any uid are accepted
  begun @6 :UInt64;         # restores that came by it, under this coordinator
  refused @7 :UInt64;       # handshakes that were refused, under this coordinator
  lastRefusal @8 :Text;     # why the last of them was; empty: none was
  lastReason @9 :Reasons.Reason; # the same for programs
}

interface Listener {
  # A handshake socket that is being served.
  nextRestore @0 () -> (restore :Restore, info :RestoreInfo);
  # The next target that completes its handshake after the last call on this capability; also those before the
  # first call. Fails where its restore is over already; the next call is about the next target.
  close @1 () -> ();
  # No further targets; restores run on.
  lastError @2 () -> (message :Text, refused :UInt64, reason :Reasons.Reason);
  # Why the last handshake was refused (`message` is empty: none was), and how many were.
}

struct ShardInfo {
  index @0 :UInt32;      # 0 to 63
  pid @1 :UInt32;        # 0 while it is not alive, as upNs and restores are; version is empty then
  alive @2 :Bool;        # it serves; false while it is being started or replaced
  restarts @3 :UInt32;   # its processes that died and were replaced, under former coordinators as well
  upNs @4 :UInt64;       # since this process was started or adopted
  restores @5 :UInt32;   # attached
  version @6 :Text;      # of its build
  recoveryNs @7 :UInt64; # from its last death, as it was noticed, to its successor serving; 0: none has died
}

struct ServiceEvent {
  # Something an operator wants to know afterwards.
  unixNs @0 :UInt64;     # wall clock
  text @1 :Text;         # one line: what, why, how long it took
  number @2 :UInt64;     # 1 for the service's first, +1 for each, whatever coordinator it has
  restore @3 :Text;      # the restore that it is about; empty: none, or several
  level @4 :EventLevel;  # whether it calls for a look
}

enum EventLevel {
  info @0;     # was asked for, or is planned
  warning @1;  # was not; the service has dealt with it
  error @2;    # a target has lost something
}

struct EndedRestore {
  # The last figures of a restore that is over.
  info @0 :RestoreInfo;            # as it ended
  stats @1 :RestoreStats;          # as it ended
  reason @2 :Reasons.EndReason;    # why it ended
  text @3 :Text;                   # the same for people
  endedUnixNs @4 :UInt64;          # wall clock
}

struct EngineInfo {
  # What one kind of source that is fetched has cost (docs/fetcher.md), since the fetcher began.
  name @0 :Text;            # packed, nbd, ...
  requests @1 :UInt64;      # answered
  bytes @2 :UInt64;         # fetched; of packed images as they are unpacked
  latency @3 :Latency;      # of a request
  reconnects @4 :UInt64;    # connections made anew
  errors @5 :UInt64;        # requests that failed and were asked again
  givenUp @6 :UInt64;       # chunks whose patience ran out
}

struct FetcherInfo {
  # The process that fetches what no file of this host has, and its cache.
  pid @0 :UInt32;           # 0 where none runs: nothing is fetched, or it is being replaced
  restarts @1 :UInt32;      # its processes that died and were replaced
  engines @2 :List(EngineInfo); # those that were used
  hits @3 :UInt64;          # chunks that were asked for and were in the cache
  misses @4 :UInt64;        # chunks that had to be fetched
  cachedBytes @5 :UInt64;   # taken on disk
  cacheLimit @6 :UInt64;    # bytes that it may take
  evicted @7 :UInt64;       # files that were dropped for room
  notKept @8 :UInt64;       # chunks that were served without being kept: no room
  fetchRate @9 :UInt64;     # bytes a second of what no fault waits for (--fetch-rate); 0: any
  savedBytes @10 :UInt64;   # what the caches have spared their sources: what each restore has used, less what was fetched,
                            # unpacked; since this coordinator began, and of a cache that it took over since that was made
}

struct ServiceTotals {
  # Since the service began, whatever coordinators it has had.
  takeovers @0 :UInt64;       # coordinators that took over from another, by death, upgrade or restart
  restoresBegun @1 :UInt64;   # made durable
  restoresFailed @2 :UInt64;  # could not be served to their end
  targetsRefused @3 :UInt64;  # handshakes
  pagesLost @4 :UInt64;       # reports of a page that a target could not be given
  shardRecovery @5 :Latency;  # from a death, as it was noticed, to the successor serving
  coordinatorRecovery @6 :Latency;  # the same of a coordinator, one that left for an upgrade included
}

struct ServiceInfo {
  version @0 :Text;          # of the coordinator's build
  coordinatorPid @1 :UInt32; # of the one that answers
  incarnation @2 :UInt32;    # 1 for the supervisor's first coordinator, +1 for each that it started since
  shards @3 :List(ShardInfo);      # by index
  restores @4 :List(RestoreInfo);  # as `list` has them
  events @5 :List(ServiceEvent);  # the latest 64, oldest first
  testHooks @6 :Bool;        # started with --test-hooks
  workersPerShard @7 :UInt32;  # copy workers, beside the thread that takes the faults
  lockDeadlineNs @8 :UInt64;   # a shard that holds a restore's lock for longer is killed
  takeoverNs @9 :UInt64;     # from the last coordinator's end, as it was noticed, to this one serving; 0: it is the
                             # supervisor's first
  totals @10 :ServiceTotals;   # since the service began
  fetcher @11 :FetcherInfo;  # of sources that are no local files
}

interface Coordinator {
  # A server that was started with --test-hooks is a TestCoordinator as well (hooks.capnp).
  attach @0 (spec :AttachSpec, uffd :Fd, source :SourceSpec, target :Fd) -> (restore :Restore);
  # Begins a restore. `uffd`: the target's userfaultfd, its API handshake done and its ranges registered.
  # `target`: a pidfd of the target; may be null. Returns when the restore is durable: whatever dies from then on,
  # its faults are answered.
  list @1 () -> (restores :List(RestoreInfo));
  # Every restore that is not over, by id. Looks at the state of every page of each.
  restore @2 (name :Text) -> (restore :Restore);
  # The sturdy way back to a restore after a disconnect. Fails where no restore has that name.
  listen @3 (spec :ListenSpec, socket :Fd, source :SourceSpec) -> (listener :Listener);
  # Serves Firecracker's handshake on a listening Unix stream socket that the caller made.
  unlisten @4 (name :Text) -> ();
  # As Listener.close, where that capability went with a former coordinator. Fails where no listener has that name.
  status @5 () -> (service :ServiceInfo);
  # The service as it is now. Costs as much as `list`.
  shutdown @6 (force :Bool) -> ();
  # Ends the service. Refused while restores with missing pages are served, unless `force`.
  reshard @7 (restore :Text, shards :UInt32) -> ();
  # Deals the extents of a restore out to this many shards (1 to 64), starting shards as needed, while it is
  # served. An error unless its phase is serving or complete.
  upgrade @8 (directory :Text, checkOnly :Bool) -> (version :Text);
  # Has the build whose programs are in `directory` take over, while all restores are served: its coordinator comes
  # next, which then replaces the shards one by one. Fails, with nothing changed, where that build is not whole or
  # cannot go on with what this one has. With checkOnly it returns the version of that build; otherwise it does not
  # return: the connection ends with this coordinator. Connect again and wait with waitUpgraded.
  waitUpgraded @9 () -> (version :Text, replaced :UInt32);
  # Returns when every shard is of the coordinator's own build, and how many had to be replaced for that. Fails
  # where the last upgrade was given up; the build that was there before serves on then.
  listenAt @10 (placed :PlacedListener) -> (listener :Listener);
  # As listen, where socket and files are given by path: the server makes the one and opens the others.
  events @11 (after :UInt64) -> (events :List(ServiceEvent), lost :UInt64);
  # The events behind number `after`, oldest first, as soon as there is one. `lost`: how many of them are kept no more.
  # Ask on with the number of the last one.
  ended @12 (name :Text) -> (restores :List(EndedRestore));
  # Restores that are over: of this name, or with an empty name all; the latest first, at most 64, under former
  # coordinators as well.
  listeners @13 () -> (listeners :List(ListenerInfo));
  # All that are served, by name.
  configure @14 (listeners :List(PlacedListener)) -> (added :UInt32, changed :UInt32, removed :UInt32);
  # Makes these the listeners of the configuration, for new targets; restores that run keep what they began with.
  # Fails, with nothing changed, where one of them cannot be served.
  drain @15 () -> ();
  # Ends the service when every restore is complete: no new targets, everything is populated. Returns when that is
  # done. Fails (pagesMissing) with the service as it was where a limit keeps a restore from being populated.
}
