// Memory that a target has registered with its userfaultfd and named in no region: a slot for hot-plug, say.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>

namespace faultline::coordinator {

// Unregisters it, once every region is, so that no fault is left unanswered after the end of a restore. The memory is
// found by the mappings of process `pid` (0: not known), where /proc shows them, and by addresses that have faulted; what is
// registered with another userfaultfd stays as it is. Returns the bytes that were let go. Waits for the target's mmap_lock:
// not for a loop. Any thread; wakes no thread of the target.
std::uint64_t unregisterUnnamed(int uffd, pid_t pid, std::span<const std::uint64_t> faulted);

}  // namespace faultline::coordinator
