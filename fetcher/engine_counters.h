// Counters of what engines have cost, for status and metrics.
#pragma once

#include "shmtracker/counters.h"

namespace faultline::fetcher {

// Counters of one kind of engine, over all sources; written with relaxed atomics.
struct EngineCounters {
  shm::Counter requests{0}, bytes{0}, errors{0};
  shm::Counter reconnects{0};  // connections made anew
  shm::Counter givenUp{0};     // reads for which the server did nothing in time
  shm::Histogram latency{};
};

}  // namespace faultline::fetcher
