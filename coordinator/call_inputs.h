// Checks of arguments of the control interface, made before anything else. A refusal (badInput) names the way
// out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rpc/control.capnp.h"
#include "shmtracker/pages.h"

namespace faultline::coordinator {

// The name of a listener or a restore: it comes into names of fds, logs and labels.
void requireName(const std::string& name);
// The number of shards of a restore.
void requireShards(std::uint32_t shards);
// The ranges of a population, for a restore of so many pages: at most 65536 ranges, and each page in one of
// them.
std::vector<shm::PageRange> prefaultRangesFrom(capnp::List<rpc::PageRange>::Reader list, std::uint64_t pages);
// The directory of a build that is to take over.
void requireBuildDirectory(const std::string& directory);

}  // namespace faultline::coordinator
