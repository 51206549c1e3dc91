// A source that is fetched, and the cache that it is served from: what a restore holds of it, and has kept.
#pragma once

#include <kj/io.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "process/file_identity.h"
#include "rpc/fetch_map.h"
#include "rpc/fetcher.capnp.h"

namespace faultline::coordinator {

// Parts of a source that are to be fetched in this order, until it goes away. Loop thread only.
struct WantedParts {
  struct Part {
    std::uint64_t begin, end;  // in bytes
  };
  std::vector<Part> parts;
  kj::Maybe<rpc::Prefetch::Client> at{};  // the fetcher's that serves the source
};

// A source that is fetched. All that is needed to go on with it is in its fds, whichever process has died. Loop thread only.
struct FetchedSource {
  std::string name;            // for messages
  kj::AutoCloseFd origin;      // the place that it is fetched from
  process::FileIdentity file;  // identity of `origin`, where that is a file
  std::string uri;             // named by `origin` (rpc/named_source.h); empty: it is a file
  // The cache, open for reading: of the image's size, and in memory what it has (rpc/fetch_map.h).
  kj::AutoCloseFd data, map;
  kj::AutoCloseFd ring;  // the ring where shards ask (rpc/fetch_ring.h)
  rpc::FetchMap::Facts facts{};
  // For a differential source: the fingerprint of what it lies over, and the layers that were found to be that.
  std::uint64_t base = 0;
  std::vector<process::FileIdentity> knownBelow{};
  std::uint64_t lastUsed = 0;  // ns, CLOCK_MONOTONIC: when a restore began with it

  // At a fetcher: nothing while there is none, or it does not serve it yet.
  kj::Maybe<rpc::FetchedSource::Client> served{};
  bool asked = false;  // a fetcher has been asked to serve it, and may have died at one of its questions
  bool formerKilled =
      true;  // the last one that was asked: not by its own doing; nor is it known of a predecessor's
  bool engaging = false;       // a fetcher is being asked to serve it
  std::string whyNot{};        // why it is not served, as was told last
  std::uint64_t lostAt = 0;    // ns, CLOCK_MONOTONIC: its fetcher has no connection since then; 0: it has one
  bool lossTold = false;       // by an event
  std::uint64_t nextLoss = 0;  // ns: one before that is not told
  std::vector<std::weak_ptr<WantedParts>> wanted{};
};

using FetchedRef = std::shared_ptr<FetchedSource>;

}  // namespace faultline::coordinator
