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
// The name of a source, for people: at most 4096 bytes, as a path has.
void requireSourceName(capnp::Text::Reader name);
// The regions of a restore: at most as many as are served, before anything is made of them.
std::vector<shm::Region> regionsFromCall(capnp::List<rpc::Region>::Reader list);
// A shard's text for people, as far as it is kept.
std::string saidByShard(capnp::Text::Reader text);
// The number of shards of a restore.
void requireShards(std::uint32_t shards);
// The ranges of a population, for a restore of so many pages: at most 65536 ranges, and each page in one of
// them.
std::vector<shm::PageRange> prefaultRangesFrom(capnp::List<rpc::PageRange>::Reader list, std::uint64_t pages);
// The directory of a build that is to take over.
void requireBuildDirectory(const std::string& directory);

}  // namespace faultline::coordinator
