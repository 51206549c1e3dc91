#include "coordinator/fault_router.h"

#include <algorithm>

namespace faultline::coordinator {

namespace {

// A fault is noted as its shard and its page in one word, so that one sort has each shard's pages side by side.
constexpr unsigned SHARD_SHIFT = 56;
constexpr std::uint64_t PAGE_MASK = (std::uint64_t{1} << SHARD_SHIFT) - 1;
static_assert(shm::MAX_PAGES <= PAGE_MASK && shm::MAX_SHARDS <= std::uint64_t{1} << (64 - SHARD_SHIFT));

}  // namespace

FaultRouter::FaultRouter(ShardPool& pool, shm::Segment& segment, CpuLatency* latency)
    : pool_(pool), segment_(segment), latency_(latency) {
  faults_.reserve(shm::JOURNAL_MESSAGES);
}

void FaultRouter::add(shm::PageIndex page) {
  if (touches_ != nullptr && segment_.pages().state(page) == shm::PageState::missing) touches_->touched(page);
  faults_.push_back(std::uint64_t{segment_.ownerOf(page)} << SHARD_SHIFT | page);
}

void FaultRouter::handOut(std::uint64_t readAt) {
  if (latency_ != nullptr) latency_->faultsCame();
  if (faults_.size() > 1) {
    std::sort(faults_.begin(), faults_.end());
    // Threads that wait for one page ask once: the copy wakes them all.
    faults_.erase(std::unique(faults_.begin(), faults_.end()), faults_.end());
  }
  for (auto first = faults_.begin(), next = first; first != faults_.end(); first = next) {
    const auto index = static_cast<std::uint32_t>(*first >> SHARD_SHIFT);
    for (; next != faults_.end() && *next >> SHARD_SHIFT == index; ++next) *next &= PAGE_MASK;
    ShardHandle* shard = attached_[index] ? pool_.process(index) : nullptr;
    if (shard == nullptr) continue;
    shard->handOver(segment_.facts().restoreId, readAt, {first, next});
    shard->ringDoorbell();
  }
  faults_.clear();
}

}  // namespace faultline::coordinator
