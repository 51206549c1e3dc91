// The part of a process's memory that is registered with a userfaultfd, as the kernel tells it: for a restore whose own
// table of regions is not to be had.
#pragma once

#include <kj/async.h>

#include <optional>
#include <vector>

#include "shmtracker/layout.h"

namespace faultline::coordinator {

// The mappings of the process behind `pidfd` that are registered with `uffd` for missing faults; base, size and
// pageShift of each. nullopt where the kernel does not tell (/proc/PID/smaps cannot be read); none where no memory
// of that process is the userfaultfd's. Waits for the target's mmap_lock, and until no event of the userfaultfd is in
// flight: for a thread of its own, while another reads events.
std::optional<std::vector<shm::RegionEntry>> registeredMemory(int uffd, int pidfd);

// registeredMemory() in a thread of its own, with duplicates of the fds. Fails where no thread or fd can be had. Loop thread.
kj::Promise<std::optional<std::vector<shm::RegionEntry>>> lookForRegisteredMemory(int uffd, int pidfd);

}  // namespace faultline::coordinator
