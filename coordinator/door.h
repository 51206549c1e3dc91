// The checks of a userfaultfd and its regions before a target hears "accepted".
#pragma once

#include <kj/async.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "shmtracker/pages.h"

namespace faultline::coordinator {

// Why the regions cannot be served by this userfaultfd, naming region and way out; nothing where they can: the
// first and the last page of each is registered and has the page size that was named. A gap between them is
// not looked for. `regions` are as shm::whyNotServable() wants them. Borrows the fd for the length of the
// call. The kernel is asked in a thread of its own, since it waits for the target's mmap_lock; a removal that
// is under way keeps it from telling, and then the regions are believed.
// `target`: whose memory it is, where that is known (0: not), to look for what is registered and can still not be
// served (coordinator/shared_memory.h).
kj::Promise<std::optional<std::string>> whyNotRegistered(int uffd, std::vector<shm::Region> regions,
                                                         pid_t target);

}  // namespace faultline::coordinator
