// The resident memory of a process, by kind.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace faultline::bench {

struct Resident {
  std::uint64_t all = 0;        // VmRSS
  std::uint64_t anonymous = 0;  // its own: the kernel can take it back only by swapping
  std::uint64_t mapped = 0;     // files, program and source: the page cache's, reclaimed like all of that
  std::uint64_t shared = 0;     // memfds: the segments of its restores, which others have as well
};

// In bytes. Throws std::runtime_error where there is no such process.
Resident residentOf(pid_t process);

}  // namespace faultline::bench
