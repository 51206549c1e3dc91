// Where the time of a fault goes.
#pragma once

#include <string>
#include <vector>

#include "bench/handler.h"
#include "bench/workload.h"

namespace faultline::bench {

struct Part {
  std::string name;
  double ns;  // mean
};

// One thread, 4 KiB pages. The target's own clock gives the whole, the segment's histograms the parts; what
// they do not see is the kernel's: queueing the fault, and waking the coordinator and the target.
std::vector<Part> breakDown(const Faultline& server, const BenchImage& image, const Workload& workload);

}  // namespace faultline::bench
