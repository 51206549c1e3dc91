// Pages that are registered no more.

#include <cstddef>
#include <utility>
#include <vector>

#include "tests/shmtracker/marked_pages.h"

namespace faultline::shm {
namespace {

using Released = MarkedPages;

TEST_F(Released, NoTransitionLeadsOutOfIt) {
  fault({1, 1});
  remove({2, 1});
  for (const PageIndex page : {0, 1, 2}) {
    gone(page);
    EXPECT_EQ(pages_.state(page), PageState::released) << page;
    fault({page, 1});
    EXPECT_EQ(pages_.state(page), PageState::released) << page;
    remove({page, 1});
    EXPECT_EQ(pages_.state(page), PageState::released) << page;
  }
}

TEST_F(Released, ZeroForGoodIsWhatWeLetGo) {
  release({0, 70});
  gone(70);
  EXPECT_TRUE(pages_.zeroForGood(0));
  EXPECT_TRUE(pages_.zeroForGood(69));
  EXPECT_FALSE(pages_.zeroForGood(70));
  // A page that the target gives up behind our back is zero, too.
  remove({70, 1});
  EXPECT_TRUE(pages_.zeroForGood(70));
}

// A coordinator that dies between two stores of a mark leaves no journal. Its successor takes the page for a released one,
// or knows nothing of it; it never doubts it.
TEST_F(Released, AMarkThatWasHalfSetIsNotDoubtful) {
  const std::size_t released = offsetof(PageWord, released), removed = offsetof(PageWord, removed);
  const std::pair<std::size_t, std::size_t> stores[] = {{layout_.mirror, released},
                                                        {layout_.pages, released},
                                                        {layout_.mirror, removed},
                                                        {layout_.pages, removed}};
  for (PageIndex page = 0; page < 4; page++) {
    for (PageIndex store = 0; store <= page; store++) flip(page, stores[store].first, stores[store].second);
    EXPECT_EQ(check().doubtful, 0u) << page;
    EXPECT_EQ(pages_.state(page), PageState::released) << page;
  }
  // As they are set.
  release({64, 1});
  EXPECT_TRUE(pages_.zeroForGood(PageRange{64, 1}));
  EXPECT_FALSE(pages_.zeroForGood(PageRange{63, 2}));
  gone(65);
  EXPECT_FALSE(pages_.zeroForGood(PageRange{64, 2}));
  release({65, 1});
  EXPECT_TRUE(pages_.zeroForGood(PageRange{64, 2}));
}

TEST_F(Released, CountsAsDone) {
  fault({0, 10});
  remove({10, 10});
  release({15, 10});
  gone(5);
  const PageCounts counts = pages_.counts();
  EXPECT_EQ(counts.faulted, 9u);
  EXPECT_EQ(counts.removed, 5u);
  EXPECT_EQ(counts.released, 11u);
  EXPECT_EQ(counts.missing, COUNT - 25);
  EXPECT_EQ(counts.total(), COUNT);
  EXPECT_EQ(pages_.find({0, COUNT}, PageState::missing), 25u);
  EXPECT_EQ(pages_.find({0, COUNT}, PageState::released), 5u);
  EXPECT_EQ(pages_.runLength(15, COUNT - 15), 10u);
  EXPECT_EQ(pages_.runLength(25, COUNT - 25), COUNT - 25);
}

// Wherever its bit is lost, no byte of the source comes of it: the page stays released, or what a removal
// said of it holds on.
TEST_F(Released, ABitThatRotsMakesNothingMissing) {
  release({0, 1});
  gone(1);
  fault({2, 1});
  gone(2);
  for (const std::size_t plane : {layout_.pages, layout_.mirror})
    for (const std::size_t word :
         {offsetof(PageWord, faulted), offsetof(PageWord, removed), offsetof(PageWord, released)})
      for (const PageIndex page : {0, 1, 2}) {
        flip(page, plane, word);
        const PageCheck found = check();
        EXPECT_EQ(found.repaired, 1u) << page;
        EXPECT_EQ(found.doubtful, 0u) << page;
        EXPECT_EQ(pages_.state(page), PageState::released) << page;
        EXPECT_EQ(check().repaired, 0u) << page;
      }
}

// Size of the whole tracker of a large restore, against its memory.
TEST(ReleasedSize, TheTrackerStaysBelowThreeTenThousandths) {
  constexpr std::uint64_t BYTES = 4ull << 30, PAGES = BYTES / SMALL_PAGE;
  const auto extents = RegionTable::extentsOf(std::vector<Region>{{0, BYTES, 0, SMALL_PAGE}});
  const Layout layout = Layout::of(1, extents, PAGES, MAX_WORKERS);
  EXPECT_LE(static_cast<double>(layout.end - layout.extents), 0.0003 * static_cast<double>(BYTES));
}

}  // namespace
}  // namespace faultline::shm
