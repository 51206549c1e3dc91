// An io_uring that can read files and nothing else.
#pragma once

#include <liburing.h>

namespace faultline::shard {

// Makes a ring that signals the eventfd `event`, and whose one operation is READ, for ever: a system call
// filter does not see requests by a ring. The ring is disabled until it is restricted, so there is no moment
// at which it can do more. False: the kernel has no ring for us, or none that can be restricted (before Linux
// 5.10).
bool makeReadRing(io_uring& ring, unsigned entries, int event);

}  // namespace faultline::shard
