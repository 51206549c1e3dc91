// Conversions between the words of the schemas and those of the tracker. A peer's values are checked where
// they are used.
#pragma once

#include <cstdint>
#include <vector>

#include "rpc/control.capnp.h"
#include "shmtracker/counters.h"
#include "shmtracker/pages.h"

namespace faultline::rpc {

std::vector<shm::Region> regionsFrom(capnp::List<Region>::Reader list);
void fill(capnp::List<Region>::Builder list, const std::vector<shm::Region>& regions);

// Throws (badInput) naming the range where one reaches past `pages`. A count of 0 means to the end.
shm::PageRange rangeFrom(PageRange::Reader range, std::uint64_t pages);
std::vector<shm::PageRange> rangesFrom(capnp::List<PageRange>::Reader list, std::uint64_t pages);
void fill(PageRange::Builder to, shm::PageRange range);

PageState stateFrom(shm::PageState state);

void fill(Latency::Builder to, const shm::Histogram& histogram);
void fill(ShardStats::Builder to, const shm::ShardCounters& counters);
void fill(RestoreStats::Builder to, const shm::RestoreCounters& counters);

}  // namespace faultline::rpc
