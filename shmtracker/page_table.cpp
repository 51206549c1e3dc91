#include "shmtracker/page_table.h"

#include <algorithm>
#include <bit>

#include "shmtracker/rwlock.h"

namespace faultline::shm {

namespace {

constexpr auto RELAXED = std::memory_order_relaxed;

// Whether test(word index, mask of the pages in `range`) holds for each word that `range` touches; the first that fails is
// the last. Whole words, of which a large range is made, have a mask that the compiler knows.
template <typename Test>
bool holdsForAllWords(PageRange range, Test&& test) {
  if (range.count == 0) return true;
  const std::size_t last = (range.end() - 1) / 64;
  std::size_t index = range.first / 64;
  const std::uint64_t behindFirst = ~0ull << (range.first % 64);
  const std::uint64_t upToLast = ~0ull >> (63 - (range.end() - 1) % 64);
  if (index == last) return test(index, behindFirst & upToLast);
  if (!test(index, behindFirst)) return false;
  while (++index < last)
    if (!test(index, ~0ull)) return false;
  return test(last, upToLast);
}

// Calls visit(word index, mask of the pages in `range`) for each word that `range` touches.
template <typename Visit>
void forEachWord(PageRange range, Visit&& visit) {
  holdsForAllWords(range, [&](std::size_t index, std::uint64_t mask) {
    visit(index, mask);
    return true;
  });
}

// Sets the bits of `mask`, or clears them, after all stores before. A whole word is stored: a large range is made of those,
// and an atomic read-modify-write costs some twenty times a store. No bit of another page can be lost: there is none.
void set(std::atomic<std::uint64_t>& bits, std::uint64_t mask) {
  if (mask == ~0ull)
    bits.store(~0ull, std::memory_order_release);
  else
    bits.fetch_or(mask, std::memory_order_release);
}
void clear(std::atomic<std::uint64_t>& bits, std::uint64_t mask) {
  if (mask == ~0ull)
    bits.store(0, std::memory_order_release);
  else
    bits.fetch_and(~mask, std::memory_order_release);
}

// Most words of a large memory are all of one state, and std::popcount is a call where the CPU may be an old one.
std::uint64_t pagesOf(std::uint64_t word) {
  return word == 0 ? 0 : word == ~0ull ? 64 : static_cast<std::uint64_t>(std::popcount(word));
}

// The pages of a word that are in `state`.
std::uint64_t pagesIn(const PageWord& word, PageState state) {
  const std::uint64_t released = word.released.load(RELAXED), faulted = word.faulted.load(RELAXED);
  switch (state) {
    case PageState::released:
      return released;
    case PageState::faulted:
      return ~released & faulted;
    case PageState::removed:
      return ~released & ~faulted & word.removed.load(RELAXED);
    case PageState::missing:
      return ~released & ~faulted & ~word.removed.load(RELAXED);
  }
  return 0;
}

}  // namespace

bool PageTable::zeroForGood(PageRange range) const {
  return holdsForAllWords(range, [&](std::size_t index, std::uint64_t mask) {
    return (words_[index].released.load(RELAXED) & words_[index].removed.load(RELAXED) & mask) == mask;
  });
}

PageIndex PageTable::find(PageRange range, PageState state) const {
  PageIndex page = range.first;
  while (page < range.end()) {
    const std::uint64_t hits = pagesIn(words_[page / 64], state) >> (page % 64);
    if (hits != 0) return std::min(range.end(), page + std::countr_zero(hits));
    page = (page / 64 + 1) * 64;
  }
  return range.end();
}

std::uint64_t PageTable::runLength(PageIndex first, std::uint64_t limit) const {
  const PageState wanted = state(first);
  PageIndex page = first;
  const PageIndex end = first + limit;
  while (page < end) {
    const std::uint64_t others = ~pagesIn(words_[page / 64], wanted) >> (page % 64);
    const std::uint64_t inWord = 64 - page % 64;
    const std::uint64_t same =
        others == 0 ? inWord : std::min<std::uint64_t>(inWord, std::countr_zero(others));
    page += same;
    if (same < inWord) break;
  }
  return std::min(page, end) - first;
}

void PageTable::markFaulted(const SharedGuard&, PageRange range) {
  forEachWord(range, [this](std::size_t index, std::uint64_t mask) {
    set(mirror_[index].faulted, mask);
    set(words_[index].faulted, mask);
  });
}

void PageTable::markRemoved(const ExclusiveGuard&, PageRange range) {
  // `removed` first: at every instant the pages read as faulted or removed, never as missing.
  forEachWord(range, [this](std::size_t index, std::uint64_t mask) {
    set(mirror_[index].removed, mask);
    set(words_[index].removed, mask);
    clear(mirror_[index].faulted, mask);
    clear(words_[index].faulted, mask);
  });
}

// `released` first: if we die between two of these stores, no journal says so, and a page of which only `removed` differs
// between the copies is doubtful. As one that has left its region the page is released all the same, until the successor
// marks it anew.
void PageTable::markReleased(const ExclusiveGuard&, PageRange range) {
  forEachWord(range, [this](std::size_t index, std::uint64_t mask) {
    set(mirror_[index].released, mask);
    set(words_[index].released, mask);
    set(mirror_[index].removed, mask);
    set(words_[index].removed, mask);
  });
}

void PageTable::markGone(const SharedGuard&, PageIndex page) {
  const std::uint64_t bit = 1ull << (page % 64);
  mirror_[page / 64].released.fetch_or(bit, RELAXED);
  words_[page / 64].released.fetch_or(bit, RELAXED);
}

void PageTable::markGone(const ExclusiveGuard&, PageRange range) {
  forEachWord(range, [this](std::size_t index, std::uint64_t mask) {
    set(mirror_[index].released, mask);
    set(words_[index].released, mask);
  });
}

PageCounts PageTable::counts(PageRange range) const {
  PageCounts counts;
  forEachWord(range, [&](std::size_t index, std::uint64_t mask) {
    // Each bit is looked at once, so a page that changes meanwhile is counted for one state.
    const std::uint64_t released = words_[index].released.load(RELAXED) & mask;
    const std::uint64_t faulted = words_[index].faulted.load(RELAXED) & mask & ~released;
    const std::uint64_t removed = words_[index].removed.load(RELAXED) & mask & ~released & ~faulted;
    counts.released += pagesOf(released);
    counts.faulted += pagesOf(faulted);
    counts.removed += pagesOf(removed);
  });
  counts.missing = range.count - counts.released - counts.faulted - counts.removed;
  return counts;
}

void PageCheck::add(const PageCheck& behind) {
  if (doubtful == 0) firstDoubtful = behind.firstDoubtful;
  repaired += behind.repaired;
  doubtful += behind.doubtful;
}

PageCheck PageTable::check(const ExclusiveGuard&, PageRange range) {
  PageCheck result;
  for (std::size_t index = range.first / 64; index < (range.end() + 63) / 64; index++) {
    PageWord& word = words_[index];
    PageWord& copy = mirror_[index];
    const std::uint64_t faultedDiffers = word.faulted.load(RELAXED) ^ copy.faulted.load(RELAXED);
    const std::uint64_t removedDiffers = word.removed.load(RELAXED) ^ copy.removed.load(RELAXED);
    const std::uint64_t releasedDiffers = word.released.load(RELAXED) ^ copy.released.load(RELAXED);
    if (faultedDiffers == 0 && removedDiffers == 0 && releasedDiffers == 0) continue;
    const std::uint64_t released = word.released.load(RELAXED) | copy.released.load(RELAXED);
    const std::uint64_t faulted = word.faulted.load(RELAXED) & copy.faulted.load(RELAXED);
    const std::uint64_t doubtful = removedDiffers & ~faulted & ~released;
    if (doubtful != 0 && result.doubtful == 0) result.firstDoubtful = index * 64 + std::countr_zero(doubtful);
    result.doubtful += std::popcount(doubtful);
    result.repaired += std::popcount((faultedDiffers | removedDiffers | releasedDiffers) & ~doubtful);
    word.faulted.store(faulted, RELAXED);
    copy.faulted.store(faulted, RELAXED);
    word.removed.fetch_or(removedDiffers & ~doubtful, RELAXED);
    copy.removed.fetch_or(removedDiffers & ~doubtful, RELAXED);
    word.released.store(released, RELAXED);
    copy.released.store(released, RELAXED);
  }
  return result;
}

}  // namespace faultline::shm
