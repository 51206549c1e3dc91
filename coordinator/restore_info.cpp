// The facts that a restore tells of itself.
#include <linux/userfaultfd.h>

#include <vector>

#include "coordinator/restore.h"
#include "process/clock.h"
#include "rpc/convert.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

void Restore::fill(rpc::RestoreInfo::Builder info, const shm::PageCounts& counts) {
  const shm::Immutable& facts = segment_.facts();
  info.setId(id());
  info.setName(name().c_str());
  info.setPhase(life_.phase());
  info.setSourceName(segment_.sourceName().c_str());
  coordinator::fill(info.initPolicy(), policy());
  info.setTargetPid(facts.targetPid);
  rpc::fill(info.initRegions(facts.regionCount), segment_.regions().regions());
  info.setPages(counts.total());
  info.setMissing(counts.missing);
  info.setFaulted(counts.faulted);
  info.setRemoved(counts.removed);
  info.setReleased(counts.released);
  info.setRemoveNegotiated((facts.uffdFeatures & UFFD_FEATURE_EVENT_REMOVE) != 0);
  if (failed()) {
    info.setFailure(life_.failure()->reason);
    info.setFailureText(life_.failure()->text.c_str());
  }
  info.setWaitingThreads(uffd::waitingThreads(fds_.uffd.get()).value_or(0));
  info.setPrefaulting(population_.underWay());
  info.setSegmentBytes(segment_.bytes());
  info.setWorkingSetRefused(workingSetRefused_.c_str());
  info.setRecording(touches_ != nullptr);
  info.setAgeNs(process::nowNs() - segment_.header().attachedAt.load());
}

void Restore::fill(rpc::RestoreStats::Builder stats) {
  rpc::fill(stats, segment_.counters());
  const std::uint32_t count = segment_.activeShards();
  const auto shares = segment_.shares();
  auto shards = stats.initShards(count);
  for (std::uint32_t i = 0; i < count; i++) {
    rpc::fill(shards[i], segment_.shardCounters(i));
    shards[i].setShard(i);
    shards[i].setExtents(shares[i]);
  }
}

}  // namespace faultline::coordinator
