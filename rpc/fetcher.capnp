# Between the coordinator and its fetcher. Internal: both are of the same build.
@0xb7f3519c60d2ae84;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");
using Control = import "control.capnp";
using Fd = import "fd.capnp".Fd;

struct FetcherStats {
  # Since the fetcher began.
  engines @0 :List(Control.EngineInfo); # those that there are
  hits @1 :UInt64;           # questions for chunks that the cache had by then
  misses @2 :UInt64;         # questions for chunks that had to be fetched
  notKept @3 :UInt64;        # chunks that were answered without being kept
  cachedBytes @4 :UInt64;    # that the caches of its sources take on the disk
}

struct SourceFacts {
  bytes @0 :UInt64;          # of the image
  identity @1 :UInt64;       # two sources whose identities differ may have different bytes
  differential @2 :Bool;     # it lies over another
  base @3 :UInt64;           # fingerprint of what that is; 0 where it does not
}

struct ByteRange {
  begin @0 :UInt64;          # of the source
  end @1 :UInt64;            # exclusive
}

interface Prefetch {
  # Parts of a source that are fetched in advance. Dropped, those that were not yet are not.
}

interface FetchedSource {
  # A source that is open. Dropped, it is closed, and is fetched from no more.
  serve @0 (data :Fd, map :Fd, ring :Fd, formerKilled :Bool) -> ();
  # Answers the questions of `ring` (rpc/fetch_ring.h) from here on, keeping what it fetches in `data` and `map`
  # (rpc/fetch_map.h), which are open for writing. Returns when the map is ready. Fails where they are another source's.
  # `formerKilled`: the fetcher before was killed by SIGKILL, which is no evidence against what it was asked.
  prefetch @1 (ranges :List(ByteRange)) -> (prefetch :Prefetch);
  # Fetches what is not there of `ranges`, in their order, beside what is asked for; what lies past the end is left out.
  # Returns at once. After serve.
  fingerprint @2 () -> (fingerprint :UInt64);
  # What a file with these bytes has (image/sampled_checksum.h). Reads samples.
}

interface Connector {
  # The way to the server of one source. The coordinator's: a fetcher has no rights to make a socket.
  connect @0 () -> (socket :Fd);
  # A new connection. Fails with the reason for people.
  lost @1 (why :Text) -> ();
  # The source has no connection any more. `why`: for people.
  made @2 () -> ();
  # It has one again, which shows what was there before.
}

interface Fetcher {
  hello @0 () -> (protocol :UInt32);
  # process/build.h, PROTOCOL.
  open @1 (file :Fd, name :Text, connector :Connector) -> (source :FetchedSource, facts :SourceFacts);
  # A packed image, or the name of a source (rpc/named_source.h), which `connector` leads to. Fails (badSource) where it
  # cannot be used, with the reason for people.
  stats @2 () -> (stats :FetcherStats);
  # As they are now.
  fingerprint @4 (layers :List(Fd), base :UInt64) -> (fingerprint :UInt64);
  # Of a stack of plain and packed files, the top one first (image/fingerprint.h); or of such files over a memory of the
  # fingerprint `base`, where that is not 0.
  fetchAtMost @3 (bytesPerSecond :UInt64) -> ();
  # What no fault waits for, of all sources together; 0: as much as there is. As --fetch-rate at the start.
}
