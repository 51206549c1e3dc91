#include "coordinator/summary.h"

#include <fmt/format.h>

#include <algorithm>

#include "process/figures.h"
#include "shmtracker/counters.h"

namespace faultline::coordinator {

using process::humanBytes;
using process::humanNs;

std::string summaryOf(rpc::EndedRestore::Reader ended) {
  const auto info = ended.getInfo();
  const auto stats = ended.getStats();
  std::uint64_t populated = 0, background = 0, around = 0, cold = 0, size = 0;
  shm::Histogram::Snapshot latency;
  for (auto shard : stats.getShards()) {
    populated += shard.getCopied() + shard.getZeroed();
    background += shard.getPrefaulted();
    around += shard.getAround();
    cold += shard.getColdReads();
    const auto buckets = shard.getEventToDone().getBuckets();
    for (unsigned i = 0; i < std::min<unsigned>(buckets.size(), shm::Histogram::BUCKETS); i++)
      latency.buckets[i] += buckets[i];
  }
  for (auto region : info.getRegions()) size += region.getSize();
  const std::uint64_t page = info.getPages() == 0 ? 0 : size / info.getPages();  // bytes, on average
  const std::uint64_t byFaults = populated - std::min(populated, background + around);
  return fmt::format(
      "{}, {}; {} of {} pages in place, {} missing, {} given back, {} released; {} faults, p50 {} "
      "p99 {}; {} by faults, {} around them, {} in the background, {} pages waited for the disk",
      humanNs(info.getAgeNs()),
      stats.getFirstPageNs() == 0 ? "no fault" : "first page after " + humanNs(stats.getFirstPageNs()),
      info.getFaulted(), info.getPages(), info.getMissing(), info.getRemoved(), info.getReleased(),
      stats.getFaults(), humanNs(latency.quantile(0.5)), humanNs(latency.quantile(0.99)),
      humanBytes(byFaults * page), humanBytes(around * page), humanBytes(background * page), cold);
}

}  // namespace faultline::coordinator
