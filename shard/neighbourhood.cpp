#include "shard/neighbourhood.h"

#include <algorithm>

namespace faultline::shard {

using shm::PageIndex;
using shm::PageRange;

namespace {

constexpr std::uint8_t FAULTS = 3, SINGLE = 4;  // bits of a window
// Windows that were opened by a single page: from the first number on they tell something, at the second the older ones
// count half.
constexpr std::uint32_t ENOUGH = 32, MANY = 256;
constexpr std::uint32_t SHARE_PERCENT =
    15;  // of windows with a third fault, from which on windows are opened whole
constexpr std::uint32_t MEASURED = 16;  // one window in so many is opened by a single page all the same

constexpr auto RELAXED = std::memory_order_relaxed;

}  // namespace

Neighbourhood::Neighbourhood(const shm::RegionTable& regions, std::uint64_t pageCount, std::uint64_t bytes)
    : regions_(regions),
      pageCount_(pageCount),
      fixed_(bytes / shm::SMALL_PAGE),
      windows_(fixed_ == 0 ? pageCount / WINDOW + 1 : 1) {}

PageRange Neighbourhood::around(PageIndex page) {
  if (fixed_ != 0) return aligned(page, fixed_);
  const PageRange window = aligned(page, WINDOW);
  const std::uint64_t pages = wanted(page, window);
  return pages == WINDOW ? window : aligned(page, pages);
}

void Neighbourhood::expect(PageRange pages) {
  if (fixed_ != 0) return;
  for (PageIndex page = pages.first; page < pages.end();) {
    const PageRange window = aligned(page, WINDOW);
    const PageIndex end = std::min(window.end(), pages.end());
    if (end - page >= STEP) windowOf(window.first).store(FAULTS, RELAXED);
    page = end;
  }
}

PageRange Neighbourhood::aligned(PageIndex page, std::uint64_t pages) const {
  if (pages == 1) return {page, 1};
  const shm::PageLocation at = regions_.locate(page);
  const std::uint64_t in = at.offset / shm::SMALL_PAGE % pages;
  std::uint64_t before = std::min(page, in);
  if (before > 0) {
    const shm::PageLocation first = regions_.locate(page - before);
    const std::uint64_t bytes = before * shm::SMALL_PAGE;
    // Not of the same region: what is before the page lies elsewhere.
    if (first.address + bytes != at.address || first.offset + bytes != at.offset) before = 0;
  }
  return {page - before, before + std::min(pages - in, at.pagesBehind)};
}

std::uint64_t Neighbourhood::wanted(PageIndex page, PageRange window) {
  SparseBytes::Byte& mark = windowOf(window.first);
  const std::uint8_t now = mark.load(RELAXED);
  switch (now & FAULTS) {
    case 0:
      if (continues(page, window) || opensWhole()) {
        mark.store(FAULTS, RELAXED);
        return WINDOW;
      }
      if (opened_.fetch_add(1, RELAXED) + 1 >= MANY) {
        opened_.store(MANY / 2, RELAXED);
        filled_.store(filled_.load(RELAXED) / 2, RELAXED);
      }
      mark.store(SINGLE | 1, RELAXED);
      return 1;
    case 1:
      mark.store((now & SINGLE) | 2, RELAXED);
      return STEP;
    case 2:
      mark.store((now & SINGLE) | 3, RELAXED);
      if ((now & SINGLE) != 0) filled_.fetch_add(1, RELAXED);
      return WINDOW;
    default:
      return WINDOW;
  }
}

// Where the page lies in the first or last pages of its window, and the window on that side was brought whole.
bool Neighbourhood::continues(PageIndex page, PageRange window) const {
  const std::uint64_t in = page - window.first;
  if (in < STEP && window.first > 0 && faultsIn(window.first - 1) == FAULTS) return true;
  return window.count - in <= STEP && window.end() < pageCount_ && faultsIn(window.end()) == FAULTS;
}

std::uint8_t Neighbourhood::faultsIn(PageIndex page) const {
  return windowOf(aligned(page, WINDOW).first).load(RELAXED) & FAULTS;
}

bool Neighbourhood::opensWhole() {
  const std::uint32_t opened = opened_.load(RELAXED);
  if (opened < ENOUGH || filled_.load(RELAXED) * 100 < opened * SHARE_PERCENT) return false;
  return turn_.fetch_add(1, RELAXED) % MEASURED != 0;
}

}  // namespace faultline::shard
