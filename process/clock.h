// Clocks, in nanoseconds. CLOCK_MONOTONIC is the one for all our processes; the wall clock is for people.
#pragma once

#include <cstdint>
#include <ctime>

namespace faultline::process {

inline std::uint64_t readClock(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// CLOCK_MONOTONIC.
inline std::uint64_t nowNs() {
  return readClock(CLOCK_MONOTONIC);
}

// The wall clock: since 1970.
inline std::uint64_t unixNs() {
  return readClock(CLOCK_REALTIME);
}

}  // namespace faultline::process
