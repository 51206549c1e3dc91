#include "coordinator/summary.h"

#include <fmt/format.h>

#include <algorithm>

#include "process/figures.h"
#include "rpc/origins.h"
#include "shmtracker/counters.h"

namespace faultline::coordinator {

using process::humanBytes;
using process::humanNs;

std::string summaryOf(rpc::EndedRestore::Reader ended) {
  const auto info = ended.getInfo();
  const auto stats = ended.getStats();
  std::uint64_t cold = 0;
  shm::Histogram::Snapshot latency;
  for (auto shard : stats.getShards()) {
    cold += shard.getColdReads();
    const auto buckets = shard.getEventToDone().getBuckets();
    for (unsigned i = 0; i < std::min<unsigned>(buckets.size(), shm::Histogram::BUCKETS); i++)
      latency.buckets[i] += buckets[i];
  }
  const rpc::Origins origins = rpc::originsOf(info, stats);
  return fmt::format(
      "{}, {}; {} of {} pages in place, {} missing, {} given back, {} released; {} faults, p50 {} "
      "p99 {}; {} by faults, {} around them, {} in the background, {} pages waited for the disk",
      humanNs(info.getAgeNs()),
      stats.getFirstPageNs() == 0 ? "no fault" : "first page after " + humanNs(stats.getFirstPageNs()),
      info.getFaulted(), info.getPages(), info.getMissing(), info.getRemoved(), info.getReleased(),
      stats.getFaults(), humanNs(latency.quantile(0.5)), humanNs(latency.quantile(0.99)),
      humanBytes(origins.faults), humanBytes(origins.around), humanBytes(origins.background), cold);
}

}  // namespace faultline::coordinator
