// The table of aims: each line is a ratio of figures taken in one run.
#pragma once

#include <string>
#include <vector>

#include "bench/figures.h"
#include "bench/workload.h"

namespace faultline::bench {

struct AimOptions {
  std::string directory;  // for image and sockets
  unsigned rounds = 5;
  std::string only;    // lines whose name contains this; empty: all
  bool quick = false;  // smaller images, the same lines
  std::string before;  // directory of the programs of an earlier build, for the lines that compare with it
};

// Measures and prints, line by line. Lines that this machine cannot give (no hugetlb pages, no fio) are named
// on stderr and left out.
std::vector<Verdict> measureAims(const AimOptions& options);

}  // namespace faultline::bench
