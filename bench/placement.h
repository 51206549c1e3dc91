// The CPUs that the processes of a measurement run on. On a machine where waking an idle CPU costs more than
// the whole fault, nothing can be compared across placements, and nothing without naming one.
#pragma once

#include <sched.h>

#include <string>

namespace faultline::bench {

enum class Placement {
  oneCpu,  // target and handler share one CPU
  across,  // the target has one CPU, the handler all others
  free,    // the scheduler decides
};

std::string nameOf(Placement placement);

// Sets of the CPUs that this process may use. `across` on a machine with one CPU is oneCpu.
cpu_set_t targetCpus(Placement placement);
cpu_set_t handlerCpus(Placement placement);

}  // namespace faultline::bench
