// The fetcher's side of fetcher.capnp: the requests of the coordinator.
#pragma once

#include <kj/async.h>

#include <memory>

#include "fetcher/served_source.h"
#include "rpc/fetcher.capnp.h"

namespace faultline::fetcher {

// What all sources share. Outlives the process's threads: never destroyed.
struct State {
  explicit State(std::uint64_t cacheLimit) : budget(cacheLimit) { counters.engines["packed"]; }
  Budget budget;
  Counters counters;
};

// `state` must live as long as the process. Loop thread.
rpc::Fetcher::Client makeFetcherServer(State& state);

}  // namespace faultline::fetcher
