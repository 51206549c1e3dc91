// The neighbourhood of a fault, put in place with it.
#pragma once

#include "shard/committer.h"
#include "shard/fault.h"
#include "shard/source/page_source.h"

namespace faultline::shard {

// What has become of the fault's own page.
enum class Around {
  inPlace,  // its waiters are still to be woken
  refused,  // come back through the lock, after a while
  alone,    // to be answered by itself
};

// Populates what is missing of fault.around, small pages, its own page first, by sections that are short while removals
// come. What the kernel does not let it at once is left to its own fault. `staged`: the bytes of all of fault.around, or
// zero. No thread is woken.
Around populateAround(const Committer& committer, const Fault& fault, unsigned worker, const Staged& staged);

}  // namespace faultline::shard
