// The restores of a service, and each with its pages counted.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "coordinator/restore.h"
#include "shmtracker/page_table.h"

namespace faultline::coordinator {

using Restores = std::map<std::uint64_t, std::shared_ptr<Restore>>;  // by id

struct CountedRestore {
  std::shared_ptr<Restore> restore;
  shm::PageCounts counts;
};
using CountedRestores = std::shared_ptr<std::vector<CountedRestore>>;

// Every restore that is not over, by id, with its pages by state, which are counted in steps. Loop thread.
kj::Promise<CountedRestores> countEach(const Restores& restores, kj::Timer& timer);

}  // namespace faultline::coordinator
