#include "coordinator/fault_router.h"

#include <algorithm>

namespace faultline::coordinator {

FaultRouter::FaultRouter(ShardPool& pool, shm::Segment& segment, CpuLatency* latency)
    : pool_(pool), segment_(segment), latency_(latency), pages_(shm::MAX_SHARDS) {
  for (auto& list : pages_) list.reserve(shm::JOURNAL_MESSAGES);
}

void FaultRouter::add(shm::PageIndex page) {
  if (touches_ != nullptr && segment_.pages().state(page) == shm::PageState::missing) touches_->touched(page);
  pages_[segment_.ownerOf(page)].push_back(page);
}

void FaultRouter::handOut(std::uint64_t readAt) {
  if (latency_ != nullptr) latency_->faultsCame();
  const std::uint32_t shards = segment_.activeShards();
  for (std::uint32_t index = 0; index < shards; index++) {
    auto& list = pages_[index];
    if (list.empty()) continue;
    ShardHandle* shard = attached_[index] ? pool_.process(index) : nullptr;
    if (shard != nullptr) {
      // Threads that wait for one page ask once: the copy wakes them all.
      if (list.size() > 1) {
        std::sort(list.begin(), list.end());
        list.erase(std::unique(list.begin(), list.end()), list.end());
      }
      shard->handOver(segment_.facts().restoreId, readAt, list);
      shard->ringDoorbell();
    }
    list.clear();
  }
}

}  // namespace faultline::coordinator
