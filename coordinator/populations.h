// The turns, rates and memory watch that the background populations of all restores of a service share.
#pragma once

#include "coordinator/memory_watch.h"
#include "coordinator/options.h"
#include "coordinator/population_rates.h"
#include "coordinator/population_turns.h"

namespace faultline::coordinator {

// Loop thread only.
struct Populations {
  Populations(kj::Timer& timer, ShardPool& pool, const Options& options)
      : turns(options.populations), rates(pool, options.populationRate), memory(timer) {}

  // The service ends: what is missing is to come before its limit. Memory that a target may not have stays so.
  void hurry() {
    rates.unlimited();
    turns.forAll();
  }

  PopulationTurns turns;
  PopulationRates rates;
  MemoryWatch memory;
};

}  // namespace faultline::coordinator
