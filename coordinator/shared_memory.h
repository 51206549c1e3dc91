// Which of a target's memory is shared, and so may be given up in ways that no event tells rightly.
#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>

#include "shmtracker/pages.h"

namespace faultline::coordinator {

// Why a region cannot be served although it is registered, naming it and the way out: its pages are of 2 MiB, and it
// is mapped shared. A target can give up a part of such a page (MADV_REMOVE), and a page has one state.
// nullopt where there is no such region in `target`, and where /proc does not tell (0: no pid is known).
// Reads /proc/PID/maps, which waits for the target's mmap_lock: not in a loop. Any thread.
std::optional<std::string> whyNotSharedHuge(pid_t target, std::span<const shm::Region> regions);

}  // namespace faultline::coordinator
