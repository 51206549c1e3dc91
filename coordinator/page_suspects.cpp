#include "coordinator/page_suspects.h"

namespace faultline::coordinator {

void PageSuspects::shardDied(shm::Segment& segment, std::uint32_t index, Death death) {
  for (unsigned worker = 0; worker < segment.facts().workersPerShard; worker++) {
    shm::Slot& slot = segment.slot(segment.firstSlot(index) + worker);
    // Only single pages count: a run says nothing of any page in it.
    const bool one = slot.inflightCount.exchange(0) == 1;
    const shm::PageIndex page = slot.inflightPage.load();
    if (one && death == Death::ofItself && page < segment.pages().pageCount())
      deaths_[segment.facts().restoreId][page]++;
  }
}

std::vector<shm::PageIndex> PageSuspects::takeHopeless(const shm::Segment& segment, std::uint32_t index) {
  std::vector<shm::PageIndex> hopeless;
  const auto found = deaths_.find(segment.facts().restoreId);
  if (found == deaths_.end()) return hopeless;
  for (const auto& [page, deaths] : found->second)
    if (deaths >= LIMIT && segment.ownerOf(page) == index) hopeless.push_back(page);
  for (const shm::PageIndex page : hopeless) found->second.erase(page);
  return hopeless;
}

void PageSuspects::forget(std::uint64_t restore) {
  deaths_.erase(restore);
}

}  // namespace faultline::coordinator
