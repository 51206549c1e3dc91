// Large runs of pages that a target has given up: what may be registered no more, beside holes of the source
// (coordinator/range_release.h).
#pragma once

#include <cstdint>
#include <vector>

#include "shmtracker/page_table.h"
#include "shmtracker/pages.h"

namespace faultline::coordinator {

// Collects them until they are taken. For one thread at a time; the page table must outlive it.
class RemovedRuns {
 public:
  // At most so many are collected. Pages that a target gives up faster than they are taken stay registered.
  static constexpr std::size_t MOST = 4096;

  // `least`: pages; shorter runs are none.
  RemovedRuns(const shm::PageTable& pages, std::uint64_t least) : pages_(pages), least_(least) {}

  // Adds pages that have just been marked removed. Removed pages on both sides of them count too, up to `least` pages
  // on each: a balloon gives up page after page. Costs at most some us.
  void add(const shm::PageRange& removed);
  // Looks for them among `count` pages from `from` on, for a successor. Returns the page to go on from.
  shm::PageIndex look(shm::PageIndex from, std::uint64_t count);

  bool empty() const { return runs_.empty(); }
  // In order, none touching another. Pages of them may have been populated meanwhile; the target had given them up once.
  std::vector<shm::PageRange> take();

 private:
  bool isRemoved(shm::PageIndex page) const { return pages_.state(page) == shm::PageState::removed; }
  void collect(const shm::PageRange& run);

  const shm::PageTable& pages_;
  const std::uint64_t least_;
  std::vector<shm::PageRange> runs_;
};

}  // namespace faultline::coordinator
