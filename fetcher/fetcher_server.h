// The fetcher's side of fetcher.capnp: the requests of the coordinator.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <string>
#include <utility>

#include "fetcher/served_source.h"
#include "rpc/fetcher.capnp.h"

namespace faultline::fetcher {

// The state that all sources share. Outlives the process's threads: never destroyed.
struct State {
  // `limit`: bytes that caches may take. `fetchRate`: bytes a second of what no fault waits for; 0: any. `wait`: ns that a server may leave a read unanswered. `noFiles`: why no key can be
  // read; empty: it can.
  // `trusted`: a file of certificates.
  State(std::uint64_t limit, std::uint64_t fetchRate, std::uint64_t wait, std::string noFiles,
        std::string trusted)
      : budget(limit), patience(wait), whyNoFiles(std::move(noFiles)), authorities(std::move(trusted)) {
    for (const char* engine : {"packed", "nbd", "http", "rbd"}) counters.engines[engine];
    rate.limit(fetchRate);
  }
  Budget budget;
  process::ByteRate rate;  // limits what no fault waits for
  Counters counters;
  const std::uint64_t patience;
  const std::string whyNoFiles;
  const std::string authorities;
};

// `state` must live as long as the process. Loop thread.
rpc::Fetcher::Client makeFetcherServer(State& state);

}  // namespace faultline::fetcher
