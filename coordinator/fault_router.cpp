#include "coordinator/fault_router.h"

#include <algorithm>

namespace faultline::coordinator {

FaultRouter::FaultRouter(ShardPool& pool, shm::Segment& segment, CpuLatency* latency)
    : pool_(pool), segment_(segment), latency_(latency) {
  faults_.reserve(shm::JOURNAL_MESSAGES);
  pages_.reserve(shm::JOURNAL_MESSAGES);
}

void FaultRouter::add(shm::PageIndex page) {
  if (touches_ != nullptr && segment_.pages().state(page) == shm::PageState::missing) touches_->touched(page);
  faults_.push_back({segment_.ownerOf(page), page});
}

void FaultRouter::handOut(std::uint64_t readAt) {
  if (latency_ != nullptr) latency_->faultsCame();
  // Threads that wait for one page ask once: the copy wakes them all.
  std::sort(faults_.begin(), faults_.end());
  faults_.erase(std::unique(faults_.begin(), faults_.end()), faults_.end());
  for (auto fault = faults_.begin(); fault != faults_.end();) {
    const std::uint32_t index = fault->shard;
    for (pages_.clear(); fault != faults_.end() && fault->shard == index; ++fault)
      pages_.push_back(fault->page);
    ShardHandle* shard = attached_[index] ? pool_.process(index) : nullptr;
    if (shard == nullptr) continue;
    shard->handOver(segment_.facts().restoreId, readAt, pages_);
    shard->ringDoorbell();
  }
  faults_.clear();
}

}  // namespace faultline::coordinator
