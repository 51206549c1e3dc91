// The parts of a fault's time.
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

// The parts for one thread and 4 KiB pages, in the order in which a fault meets them. The target's own clock
// gives the whole, the segment's histograms and counters the parts. Measures again where a fault was read
// twice; throws std::runtime_error where that does not end.
std::vector<Part> breakDown(const Faultline& server, const BenchImage& image, const Workload& workload);

}  // namespace faultline::bench
