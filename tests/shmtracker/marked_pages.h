// A page table, and the marks that a coordinator and a shard make in it.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>

#include "shmtracker/segment.h"
#include "tests/support/exclusive.h"

namespace faultline::shm {

class MarkedPages : public testing::Test {
 protected:
  static constexpr std::uint64_t COUNT = 1000;

  void SetUp() override { segment_.lock().open(); }
  void fault(PageRange range) { pages_.markFaulted(segment_.lock().lockShared(0), range); }
  void remove(PageRange range) { pages_.markRemoved(test::exclusive(segment_), range); }
  void release(PageRange range) { pages_.markReleased(test::exclusive(segment_), range); }
  void gone(PageIndex page) { pages_.markGone(segment_.lock().lockShared(0), page); }
  PageCheck check() { return pages_.check(test::exclusive(segment_), {0, COUNT}); }

  // The word of `page` in a copy of the table: `plane` is its place in the segment, `word` one in PageWord.
  std::uint64_t& wordOf(PageIndex page, std::size_t plane, std::size_t word) {
    auto* start = reinterpret_cast<char*>(&segment_.header());
    return *reinterpret_cast<std::uint64_t*>(start + plane + page / 64 * sizeof(PageWord) + word);
  }
  // Changes one bit of it, as if it had rotted; once more: it is as before.
  void flip(PageIndex page, std::size_t plane, std::size_t word) {
    wordOf(page, plane, word) ^= 1ull << (page % 64);
  }

  Segment segment_ = Segment::create({.restoreId = 1,
                                      .name = "test",
                                      .sourceName = "",
                                      .regions = {{0, COUNT* SMALL_PAGE, 0, SMALL_PAGE}},
                                      .sourceBytes = COUNT * SMALL_PAGE});
  PageTable& pages_ = segment_.pages();
  const Layout layout_ = Layout::of(1, segment_.extents().count(), COUNT, 1);
};

}  // namespace faultline::shm
