// The plan of a run. All of it follows from the options and the seed; how the threads interleave does not.
#pragma once

#include <cstdint>
#include <vector>

#include "client/restored_memory.h"

namespace faultline::target {

enum class Order { random, sequential };

// Memory to give back with one madvise, when thread `thread` has touched `position` of its pages.
struct Removal {
  std::uint64_t slot, pages;  // of RestoredMemory
  std::size_t thread;
  std::uint64_t position;
  // meet: the page that the thread touches next is among them, and is to be touched during the madvise.
  enum class Aim { anywhere, meet } aim;
  enum class After { leave, touchAgain } after;  // touch the pages as soon as the madvise has returned
};

// For each thread the pages that it touches, in its order; every page is in one of the lists.
std::vector<std::vector<std::uint64_t>> planTouches(std::uint64_t pages, unsigned threads, Order order,
                                                    std::uint64_t seed);

// Removals of `percent` of the pages in all (a page may go more than once), spread over the whole run: half
// of them anywhere, half of them at pages that a thread is just about to touch.
std::vector<Removal> planRemovals(const RestoredMemory& memory,
                                  const std::vector<std::vector<std::uint64_t>>& touches, double percent,
                                  std::uint64_t seed);

// Whether the page is among the `percent` of pages that are written after their first look.
bool planWrite(std::uint64_t page, double percent, std::uint64_t seed);

}  // namespace faultline::target
