// The state of every page of a restore: three bits a page, kept twice.
//
//   faulted:  populated once, so the source is never read for it again
//   removed:  the target gave it up once; never cleared
//   released: registered no more, so the kernel alone answers for it; never cleared
//
// State: released ? released : faulted ? faulted : removed ? removed : missing. A removal sets `removed` and
// then clears `faulted`; a commit sets `faulted`. The two kinds of writer exclude each other through the
// RwLock, which is why every changing function asks for the proof of its side. Two workers may commit a page
// at once: both set one bit.
//
// A released page counts as done: nothing is fetched for it, and no thread waits for it. A fault for it can
// arrive all the same, where the target has registered its range anew. `removed` tells the two kinds of it
// apart: with it the page is zero for good (we let it go), without it the target has put something else
// there.
//
// The mirror is written in the same step and read only by check(): by it a successor finds bytes that rotted
// while no process ran.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "shmtracker/layout.h"
#include "shmtracker/pages.h"

namespace faultline::shm {

class SharedGuard;
class ExclusiveGuard;

struct PageCounts {
  std::uint64_t missing = 0, faulted = 0, removed = 0, released = 0;

  std::uint64_t total() const { return missing + faulted + removed + released; }
  PageCounts& operator+=(const PageCounts& more) {
    missing += more.missing;
    faulted += more.faulted;
    removed += more.removed;
    released += more.released;
    return *this;
  }
};

// The findings of check(), in pages.
struct PageCheck {
  std::uint64_t repaired = 0;  // the two copies differed and the truth follows from the rest
  std::uint64_t doubtful = 0;  // it is unknown whether the page was removed
  PageIndex firstDoubtful = 0;

  // The findings of the pages behind, too.
  void add(const PageCheck& behind);
};

// A view of the two planes in the segment. Any thread of any process; indexes must be < pageCount().
class PageTable {
 public:
  PageTable(std::span<PageWord> words, std::span<PageWord> mirror, std::uint64_t pageCount)
      : words_(words), mirror_(mirror), pageCount_(pageCount) {}

  std::uint64_t pageCount() const { return pageCount_; }

  PageState state(PageIndex page) const {
    const PageWord& word = words_[page / 64];
    const std::uint64_t bit = 1ull << (page % 64);
    if (word.released.load(std::memory_order_relaxed) & bit) return PageState::released;
    if (word.faulted.load(std::memory_order_relaxed) & bit) return PageState::faulted;
    return word.removed.load(std::memory_order_relaxed) & bit ? PageState::removed : PageState::missing;
  }
  // For a released page. True: it is zero for good, so a fault for it is answered with zeros; otherwise with
  // an error.
  bool zeroForGood(PageIndex page) const {
    return (words_[page / 64].removed.load(std::memory_order_relaxed) & 1ull << (page % 64)) != 0;
  }
  // True where each page of the range is released and zero for good.
  bool zeroForGood(PageRange range) const;
  // The number of pages from `first` on, at most `limit`, that are in the same state as `first`.
  std::uint64_t runLength(PageIndex first, std::uint64_t limit) const;
  // The first page of `range` in state `state`, or range.end().
  PageIndex find(PageRange range, PageState state) const;

  // The page was populated: by the worker that did it, inside the section in which it did.
  void markFaulted(const SharedGuard&, PageRange range);
  // The target gave the pages up: by the coordinator, before it opens the gate.
  void markRemoved(const ExclusiveGuard&, PageRange range);
  // The pages are zero for good and were unregistered: by the coordinator, after the unregister has returned
  // 0 and before it opens the gate.
  void markReleased(const ExclusiveGuard&, PageRange range);
  // The target has unmapped, replaced or moved the page: by the worker that the kernel has answered ENOENT
  // for this page alone, inside the section in which it did.
  void markGone(const SharedGuard&, PageIndex page);
  // The target has unmapped, replaced or moved each of the pages: by the coordinator, which has looked at the target's
  // mappings.
  void markGone(const ExclusiveGuard&, PageRange range);

  PageCounts counts(PageRange range) const;
  PageCounts counts() const { return counts({0, pageCount_}); }
  // Compares the copies of these pages and repairs what can be: only for a successor that holds the write side, after
  // replay. `range.first` is a multiple of 64.
  //  - `faulted` differs: a shard died between its two stores, or the bit rotted. Taken as not faulted: if the page
  //    is in place, a copy meets EEXIST; if it is not and was ever removed, `removed` says so.
  //  - `released` differs: a shard or a coordinator died between its two stores, or the bit rotted. Taken as
  //    released: a fault for the page then gets zeros or an error, never bytes of the source.
  //  - `removed` differs: harmless where the page is faulted or released, since neither reads the source; else
  //    doubtful. What is doubtful stays as it is: a successor that dies now leaves it to be found by the next one.
  PageCheck check(const ExclusiveGuard&, PageRange range);

 private:
  std::span<PageWord> words_;
  std::span<PageWord> mirror_;
  std::uint64_t pageCount_;
};

}  // namespace faultline::shm
