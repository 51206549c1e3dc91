// Nanoseconds of CLOCK_MONOTONIC: one clock for all our processes.
#pragma once

#include <cstdint>
#include <ctime>

namespace faultline::process {

inline std::uint64_t nowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace faultline::process
