// The pages that come with a fault, by the faults before it.

#include "shard/neighbourhood.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <vector>

namespace faultline::shard {
namespace {

using shm::PageIndex;
using shm::PageRange;
using shm::Region;

constexpr std::uint64_t PAGE = shm::SMALL_PAGE, WINDOW = Neighbourhood::WINDOW;

class Memory {
 public:
  explicit Memory(std::vector<Region> regions, std::uint64_t bytes = 0)
      : entries_(regions.size()),
        table_(shm::RegionTable((shm::RegionTable::build(regions, entries_), entries_))),
        pages_(shm::RegionTable::pagesOf(regions)),
        neighbourhood_(table_, pages_, bytes) {}
  explicit Memory(std::uint64_t pages, std::uint64_t bytes = 0)
      : Memory(std::vector<Region>{{.base = 1ull << 32, .size = pages * PAGE}}, bytes) {}

  PageRange fault(PageIndex page) { return neighbourhood_.around(page); }
  void expect(PageRange pages) { neighbourhood_.expect(pages); }

  // Faults on the pages in this order, but for those that have come already. How many faults there were.
  std::uint64_t touch(const std::vector<PageIndex>& order) {
    std::uint64_t faults = 0;
    for (const PageIndex page : order) {
      if (here_.contains(page)) continue;
      faults++;
      const PageRange came = fault(page);
      for (PageIndex each = came.first; each < came.end(); each++) here_.insert(each);
    }
    return faults;
  }
  std::size_t here() const { return here_.size(); }

 private:
  std::vector<shm::RegionEntry> entries_;
  shm::RegionTable table_;
  std::uint64_t pages_;
  Neighbourhood neighbourhood_;
  std::set<PageIndex> here_;
};

std::vector<PageIndex> shuffled(std::uint64_t pages, std::uint64_t step = 1) {
  std::vector<PageIndex> order(pages / step);
  for (std::size_t i = 0; i < order.size(); i++) order[i] = i * step;
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  return order;
}

TEST(Neighbourhood, GrowsWithTheFaultsInIt) {
  Memory memory(64);
  EXPECT_EQ(memory.fault(20), (PageRange{20, 1}));
  EXPECT_EQ(memory.fault(30), (PageRange{28, 4}));
  EXPECT_EQ(memory.fault(17), (PageRange{16, 16}));
  EXPECT_EQ(memory.fault(40), (PageRange{40, 1})) << "another window";
}

TEST(Neighbourhood, OfASequenceComesWhole) {
  Memory up(256), down(256);
  std::vector<PageIndex> order(256);
  std::iota(order.begin(), order.end(), 0);
  EXPECT_EQ(up.touch(order), 256 / WINDOW + 2) << "two faults more in the first window";
  std::reverse(order.begin(), order.end());
  EXPECT_EQ(down.touch(order), 256 / WINDOW + 2);
}

TEST(Neighbourhood, OfARunThatIsExpectedComesWhole) {
  Memory memory(256);
  memory.expect({10, 30});
  memory.expect({77, 3});
  EXPECT_EQ(memory.fault(12), (PageRange{0, 16})) << "6 of its pages";
  EXPECT_EQ(memory.fault(20), (PageRange{16, 16}));
  EXPECT_EQ(memory.fault(47), (PageRange{32, 16}));
  EXPECT_EQ(memory.fault(72), (PageRange{72, 1})) << "too few pages to tell";
  EXPECT_EQ(memory.fault(120), (PageRange{120, 1}));
}

TEST(Neighbourhood, OfOneSizeTakesNoNoteOfWhatIsExpected) {
  Memory memory(64, PAGE);
  memory.expect({0, 64});
  EXPECT_EQ(memory.fault(20), (PageRange{20, 1}));
}

// Scattered faults bring nothing that was not asked for.
TEST(Neighbourhood, OfOnePageInSixteenIsThatPage) {
  constexpr std::uint64_t PAGES = 1 << 16;
  Memory memory(PAGES);
  EXPECT_EQ(memory.touch(shuffled(PAGES, WINDOW)), PAGES / WINDOW);
  EXPECT_EQ(memory.here(), PAGES / WINDOW);
}

TEST(Neighbourhood, OfDenseMemoryComesWholeInTheEnd) {
  constexpr std::uint64_t PAGES = 1 << 16;
  Memory memory(PAGES);
  const std::uint64_t faults = memory.touch(shuffled(PAGES));
  EXPECT_EQ(memory.here(), PAGES);
  EXPECT_LT(faults, PAGES / WINDOW * 3) << "the most that the faults of each window alone would make of it";
}

TEST(Neighbourhood, EndsWithItsRegion) {
  Memory memory(std::vector<Region>{{.base = 1ull << 32, .size = 20 * PAGE, .offset = 64 * PAGE},
                                    {.base = 1ull << 33, .size = 20 * PAGE, .offset = 16 * PAGE}},
                65536);
  EXPECT_EQ(memory.fault(3), (PageRange{0, 16}));
  EXPECT_EQ(memory.fault(18), (PageRange{16, 4})) << "of the first region, whose last four pages these are";
  EXPECT_EQ(memory.fault(20), (PageRange{20, 16}));
  EXPECT_EQ(memory.fault(39), (PageRange{36, 4}));
}

// So that one read brings all of it, and no page comes with another one's bytes.
TEST(Neighbourhood, IsAlignedInTheSource) {
  Memory memory(std::vector<Region>{{.base = 1ull << 32, .size = 64 * PAGE, .offset = 5 * PAGE}}, 65536);
  EXPECT_EQ(memory.fault(0), (PageRange{0, 11}));
  EXPECT_EQ(memory.fault(12), (PageRange{11, 16}));
}

TEST(Neighbourhood, OfAFixedSizeComesWithEveryFault) {
  Memory off(64, 4096), some(64, 16384);
  for (const PageIndex page : {5, 6, 7, 8}) {
    EXPECT_EQ(off.fault(page), (PageRange{page, 1}));
    EXPECT_EQ(some.fault(page), (PageRange{page / 4 * 4, 4}));
  }
}

}  // namespace
}  // namespace faultline::shard
