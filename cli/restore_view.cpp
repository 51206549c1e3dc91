#include "cli/restore_view.h"

#include <algorithm>

namespace faultline::cli {

void RestoreView::take(rpc::RestoreInfo::Reader info) {
  name = info.getName().cStr();
  failure = info.getFailureText().cStr();
  phase = info.getPhase();
  targetPid = info.getTargetPid();
  pages = info.getPages();
  missing = info.getMissing();
  faulted = info.getFaulted();
  removed = info.getRemoved();
  released = info.getReleased();
  segmentBytes = info.getSegmentBytes();
  ageNs = info.getAgeNs();
  bytes = 0;
  for (auto region : info.getRegions()) bytes += region.getSize();
}

void RestoreView::take(rpc::RestoreStats::Reader stats) {
  faults = stats.getFaults();
  removes = stats.getRemoves();
  copied = zeroed = zeroedRemoved = prefaulted = poisoned = 0;
  latency = {};
  for (auto shard : stats.getShards()) {
    copied += shard.getCopied();
    zeroed += shard.getZeroed();
    zeroedRemoved += shard.getZeroedRemoved();
    prefaulted += shard.getPrefaulted();
    poisoned += shard.getPoisoned();
    auto buckets = shard.getEventToDone().getBuckets();
    for (unsigned i = 0; i < std::min<unsigned>(buckets.size(), shm::Histogram::BUCKETS); i++)
      latency.buckets[i] += buckets[i];
    latency.sum += shard.getEventToDone().getSum();
  }
}

double RestoreView::donePercent() const {
  return pages == 0 ? 100 : 100 * static_cast<double>(pages - missing) / static_cast<double>(pages);
}

Rates ratesBetween(const RestoreView* before, const RestoreView& now) {
  // Pages that were missing are populated or removed since.
  const std::uint64_t missing = before == nullptr ? now.pages : before->missing;
  const std::uint64_t faults = before == nullptr ? 0 : before->faults;
  const std::uint64_t since = before == nullptr ? 0 : before->ageNs;
  if (now.ageNs <= since || now.pages == 0) return {};
  const double seconds = static_cast<double>(now.ageNs - since) / 1e9;
  auto perSecond = [seconds](std::uint64_t to, std::uint64_t from) {
    return to > from ? static_cast<double>(to - from) / seconds : 0;
  };
  const double pages = perSecond(missing, now.missing);
  return {pages, pages * static_cast<double>(now.bytes) / static_cast<double>(now.pages),
          perSecond(now.faults, faults)};
}

const char* phaseName(rpc::Phase phase) {
  switch (phase) {
    case rpc::Phase::SERVING:
      return "serving";
    case rpc::Phase::PAUSED:
      return "paused";
    case rpc::Phase::COMPLETE:
      return "complete";
    case rpc::Phase::FAILED:
      return "failed";
  }
  return "?";
}

}  // namespace faultline::cli
