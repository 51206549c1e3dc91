// The CPU time of a family of processes.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

namespace faultline::bench {

// Seconds since each was started, by the process's name, of `root` and all its descendants that are there
// now. To the nanosecond (clock_getcpuclockid(3)), threads that have ended included. Empty where `root` is 0.
std::map<std::string, double> cpuSecondsByName(pid_t root);

// All of them together.
double cpuSeconds(pid_t root);

}  // namespace faultline::bench
