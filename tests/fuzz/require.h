// require(): a condition that must hold for every input. A fuzzer takes the end of the process for a finding.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace faultline::fuzz {

inline void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "does not hold: %s\n", what);
  abort();
}

}  // namespace faultline::fuzz
