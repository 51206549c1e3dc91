// The pages that a fault brings besides its own.
//
// A fault costs several times as much as the copy of a page, so a neighbourhood that is being touched comes together.
// Where single pages are touched, their neighbours would cost more than they save, and would fill the target's memory.
// The faults in a window of 64 KiB tell one from the other: the first brings its page, the second 16 KiB, the third all
// of the window. Two signs bring a window whole at its first fault: it begins or ends beside a window that was brought
// whole, as in a sequence; or many windows of this restore have had a third fault. Every 16th window is opened by a
// single page all the same, to go on measuring that. What a recorded working set has of a window tells as much as faults.
//
// Faults alone are counted. Pages that a population has brought say nothing of what the target touches.
#pragma once

#include <atomic>
#include <cstdint>

#include "shard/sparse_bytes.h"
#include "shmtracker/region_table.h"

namespace faultline::shard {

// The small pages of one restore. Allocates nothing after construction. Any thread: two that race may judge a fault
// differently, no more.
class Neighbourhood {
 public:
  static constexpr std::uint64_t WINDOW = 16, STEP = 4;  // pages

  // `bytes`: a power of two from 4 KiB to 64 KiB, what every fault brings, aligned; 0: as the faults tell.
  // `regions` must outlive it.
  Neighbourhood(const shm::RegionTable& regions, std::uint64_t pageCount, std::uint64_t bytes);

  // The pages that come with a fault on `page`, itself included; counts the fault. All of them lie side by side in the
  // target and in the source.
  shm::PageRange around(shm::PageIndex page);
  // These pages, side by side, are about to be touched: a window that has STEP of them or more is brought whole by its next
  // fault. No effect where every fault brings the same.
  void expect(shm::PageRange pages);

 private:
  // The aligned pages around one, as far as its region goes. Aligned in the source, so that a cold window is one read.
  shm::PageRange aligned(shm::PageIndex page, std::uint64_t pages) const;
  std::uint64_t wanted(shm::PageIndex page, shm::PageRange window);
  bool continues(shm::PageIndex page, shm::PageRange window) const;
  bool opensWhole();

  std::uint8_t faultsIn(shm::PageIndex page) const;
  SparseBytes::Byte& windowOf(shm::PageIndex page) const { return windows_[page / WINDOW]; }

  const shm::RegionTable& regions_;
  const std::uint64_t pageCount_, fixed_;  // pages; 0: as the faults tell
  // Of each window its faults, at most 3, and whether its first one brought a single page.
  const SparseBytes windows_;
  // Windows that were opened by a single page, and those of them that had a third fault: both of late.
  std::atomic<std::uint32_t> opened_{0}, filled_{0};
  std::atomic<std::uint32_t> turn_{0};
};

}  // namespace faultline::shard
