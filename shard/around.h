// The neighbourhood of a fault, put in place with it.
#pragma once

#include "shard/committer.h"
#include "shard/fault.h"
#include "shard/source/page_source.h"

namespace faultline::shard {

// Populates what is missing of fault.around, small pages, its own page first, by sections as those of a population. What
// the kernel does not let it at once is left to its own fault. `staged`: the bytes of all of fault.around, or zero.
// False: the fault's own page is not in place, and is to be answered by itself. No thread is woken.
bool populateAround(const Committer& committer, const Fault& fault, unsigned worker, const Staged& staged);

}  // namespace faultline::shard
