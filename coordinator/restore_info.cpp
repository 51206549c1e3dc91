// The facts that a restore tells of itself.
#include <capnp/message.h>
#include <linux/userfaultfd.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <vector>

#include "coordinator/restore.h"
#include "coordinator/summary.h"
#include "process/clock.h"
#include "process/log_about.h"
#include "rpc/convert.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

// From the restore's begin to the first page that a shard put in place for a fault; 0: none has.
std::uint64_t firstPageNs(shm::Segment& segment) {
  std::uint64_t first = ~0ull;
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++)
    if (const std::uint64_t at = segment.shardCounters(i).firstDoneAt.load(std::memory_order_relaxed);
        at != 0)
      first = std::min(first, at);
  const std::uint64_t begun = segment.header().attachedAt.load();
  return first == ~0ull || first < begun ? 0 : first - begun;
}

// Whether the shard has ever had to do with the restore.
bool hasWorked(const shm::ShardCounters& c) {
  for (const shm::Counter* counter :
       {&c.faultsTaken, &c.copied, &c.zeroed, &c.zeroedRemoved, &c.alreadyPresent, &c.refused, &c.requeued,
        &c.poisoned, &c.dropped, &c.outOfMemory, &c.prefaulted, &c.coldReads, &c.sourceBytes, &c.sourceErrors,
        &c.slotsRecovered})
    if (counter->load(std::memory_order_relaxed) != 0) return true;
  return false;
}

}  // namespace

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
  info.setPopulationHeld(population_.whyHeld().c_str());
  info.setSegmentBytes(segment_.bytes());
  info.setWorkingSetRefused(initial_.refused().c_str());
  info.setRecording(recording_.recorder() != nullptr);
  info.setAgeNs(process::nowNs() - segment_.header().attachedAt.load());
}

void Restore::noteEnd(const shm::PageCounts& counts) {
  capnp::MallocMessageBuilder message;
  auto ended = message.initRoot<rpc::EndedRestore>();
  fill(ended.initInfo(), counts);
  fill(ended.initStats());
  ended.setReason(life_.end().reason);
  ended.setText(life_.end().text.c_str());
  ended.setEndedUnixNs(process::unixNs());
  context_.ended.note(ended, EndedRestores::Fds::givenBack);
  const process::LogAbout about({.restore = name(), .messageId = process::message::RESTORE_ENDED});
  spdlog::info("restore {} is over after {}", name(), summaryOf(ended));
}

void Restore::fill(rpc::RestoreStats::Builder stats) {
  rpc::fill(stats, segment_.counters());
  stats.setFirstPageNs(firstPageNs(segment_));
  const auto shares = segment_.shares();
  std::vector<std::uint32_t> parts;
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++)
    if (shares[i] > 0 || hasWorked(segment_.shardCounters(i))) parts.push_back(i);
  auto shards = stats.initShards(static_cast<unsigned>(parts.size()));
  for (unsigned n = 0; n < parts.size(); n++) {
    const std::uint32_t i = parts[n];
    rpc::fill(shards[n], segment_.shardCounters(i));
    shards[n].setShard(i);
    shards[n].setExtents(shares[i]);
  }
}

}  // namespace faultline::coordinator
