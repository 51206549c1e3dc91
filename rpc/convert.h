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

// `set`: of a coordinator or of a command; a range has `offset` and `size`, in bytes of the source.
template <typename Set>
requires requires(const Set& set) {
  set.ranges.at(0).offset + set.ranges.at(0).size + set.pageSize;
}
void fill(WorkingSet::Builder to, const Set& set) {
  to.setPageSize(set.pageSize);
  auto list = to.initRanges(static_cast<unsigned>(set.ranges.size()));
  for (unsigned i = 0; i < set.ranges.size(); i++) {
    list[i].setOffset(set.ranges[i].offset);
    list[i].setSize(set.ranges[i].size);
  }
}

PageState stateFrom(shm::PageState state);

// True for the reasons of a restore that has failed. False for any other value, also one that this build does not know.
bool isFailure(EndReason reason);

void fill(Latency::Builder to, const shm::Histogram& histogram);
void fill(ShardStats::Builder to, const shm::ShardCounters& counters);
void fill(RestoreStats::Builder to, const shm::RestoreCounters& counters);

}  // namespace faultline::rpc
