// The mappings of a process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

namespace faultline::coordinator {

struct Mapping {
  std::uint64_t start = 0, end = 0;  // addresses
  bool shared = false;
  bool anonymous = false;  // not of a file
};

// The mappings as /proc/PID/maps lists them; none where that cannot be read (0: no pid is known). Whose they are by the
// time they are used the caller has to ask. Waits for the process's mmap_lock: not in a loop. Any thread.
std::vector<Mapping> mappingsOf(pid_t pid);

}  // namespace faultline::coordinator
