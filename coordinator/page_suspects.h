// Pages that kill shards: found by the pages that a dead shard's workers were busy with, and given up after some
// deaths.
//
// A page can be one whose source bytes crash the process that reads them. Its shard dies at it, the successor
// is asked for it again, and dies as well. The cure:
//   - a worker that is busy with one page writes it into its slot of the segment (shard/attachment.h, Inflight);
//   - a successor of a shard that died serves its first CAREFUL_FAULTS faults one by one, so that the slot names
//     the page that kills it and no innocent one beside it (shard/fault_loop.cpp);
//   - a page at which LIMIT processes died is poisoned before the next one is handed any fault.
// A death that we brought about (a fence, the watchdog, a replacement) says nothing about a page.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "shmtracker/segment.h"

namespace faultline::coordinator {

// How a shard came to its end. A kill of our own, by the fence or the watchdog, says nothing about a page.
enum class Death { ofItself, byUs };

// Loop thread only.
class PageSuspects {
 public:
  // Deaths of shards at one page after which it is given up.
  static constexpr std::uint32_t LIMIT = 3;
  // Faults that a successor of a dead shard serves one by one.
  static constexpr unsigned CAREFUL_FAULTS = 256;

  // Shard `index` has died: looks at what its workers were busy with of this restore, and forgets it.
  void shardDied(shm::Segment& segment, std::uint32_t index, Death death);
  // The pages of this restore that are to be given up and that shard `index` owns; they are suspected no
  // more.
  std::vector<shm::PageIndex> takeHopeless(const shm::Segment& segment, std::uint32_t index);
  // A restore is over.
  void forget(std::uint64_t restore);

 private:
  std::map<std::uint64_t, std::map<shm::PageIndex, std::uint32_t>> deaths_;  // by restore
};

}  // namespace faultline::coordinator
