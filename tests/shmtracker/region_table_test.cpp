#include "shmtracker/region_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace faultline::shm {
namespace {

constexpr std::uint64_t MIB = 1 << 20;

class Regions : public testing::Test {
 protected:
  // Unordered in address, at any offset, of both page sizes.
  const std::vector<Region> regions_ = {{64 * MIB, 8 * MIB, 0, SMALL_PAGE},
                                        {16 * MIB, 4 * MIB, 32 * MIB, HUGE_PAGE},
                                        {40 * MIB, 3 * SMALL_PAGE, 20 * MIB, SMALL_PAGE}};
  std::vector<RegionEntry> entries_ = [this] {
    std::vector<RegionEntry> entries(regions_.size());
    RegionTable::build(regions_, entries);
    return entries;
  }();
  RegionTable table_{entries_};
};

TEST_F(Regions, AnAddressLeadsToItsPageAndThePageToItsOffset) {
  for (const Region& region : regions_) {
    for (std::uint64_t at = 0; at < region.size; at += region.pageSize) {
      const auto page = table_.pageAt(region.base + at + region.pageSize - 1);
      ASSERT_TRUE(page.has_value());
      const PageLocation where = table_.locate(*page);
      EXPECT_EQ(where.address, region.base + at);
      EXPECT_EQ(where.offset, region.offset + at);
      EXPECT_EQ(where.pageSize, region.pageSize);
      EXPECT_EQ(where.pagesBehind, (region.size - at) / region.pageSize);
    }
  }
}

TEST_F(Regions, PagesAreNumberedDenselyInOrderOfAddress) {
  EXPECT_EQ(table_.pageAt(16 * MIB), 0u);
  EXPECT_EQ(table_.pageAt(18 * MIB), 1u);
  EXPECT_EQ(table_.pageAt(40 * MIB), 2u);
  EXPECT_EQ(table_.pageAt(64 * MIB), 5u);
  EXPECT_EQ(RegionTable::pagesOf(regions_), 2u + 3 + 2048);
}

TEST_F(Regions, AddressesOutsideLeadNowhere) {
  for (const std::uint64_t address :
       {std::uint64_t{0}, 16 * MIB - 1, 20 * MIB, 40 * MIB + 3 * SMALL_PAGE, 72 * MIB, ~std::uint64_t{0}})
    EXPECT_FALSE(table_.pageAt(address).has_value()) << address;
}

TEST_F(Regions, ARemovedRangeCoversWholePagesOfEveryRegionItTouches) {
  EXPECT_THAT(table_.pagesIn(18 * MIB, 64 * MIB + 2 * SMALL_PAGE),
              testing::ElementsAre(PageRange{1, 1}, PageRange{2, 3}, PageRange{5, 2}));
  // Half a huge page is not removed by the kernel either.
  EXPECT_TRUE(table_.pagesIn(16 * MIB, 17 * MIB).empty());
  EXPECT_TRUE(table_.pagesIn(0, 16 * MIB).empty());
}

TEST(RegionTableOfALargeGuest, ARangeOfMoreThanFourGibIsWhole) {
  const std::vector<Region> regions = {{0x7f0000000000, 16ull << 30, 0, SMALL_PAGE}};
  std::vector<RegionEntry> entries(1);
  RegionTable::build(regions, entries);
  const RegionTable table(entries);
  EXPECT_THAT(table.pagesIn(0x7f0000000000, 0x7f0000000000 + (16ull << 30)),
              testing::ElementsAre(PageRange{0, 4u << 20}));
}

TEST_F(Regions, ExtentsPartitionThePages) {
  PageIndex next = 0;
  for (std::uint32_t extent = 0; extent < RegionTable::extentsOf(regions_); extent++) {
    const PageRange pages = table_.pagesOfExtent(extent);
    EXPECT_EQ(pages.first, next);
    for (PageIndex page = pages.first; page < pages.end(); page++) ASSERT_EQ(table_.extentOf(page), extent);
    next = pages.end();
  }
  EXPECT_EQ(next, RegionTable::pagesOf(regions_));
}

struct Bad {
  Region region;
  const char* says;
};

class NotServable : public testing::TestWithParam<Bad> {};

TEST_P(NotServable, AndTheMessageSaysWhy) {
  const std::vector<Region> regions = {GetParam().region};
  const auto why = whyNotServable(regions, 64 * MIB);
  ASSERT_TRUE(why.has_value());
  EXPECT_THAT(*why, testing::HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(Each, NotServable,
                         testing::Values(Bad{{0, 0, 0, SMALL_PAGE}, "size is 0: leave the region out"},
                                         Bad{{1, 4096, 0, SMALL_PAGE}, "multiples"},
                                         Bad{{0, 4097, 0, SMALL_PAGE}, "multiples"},
                                         Bad{{0, 4096, 5, SMALL_PAGE}, "multiples"},
                                         Bad{{0, 4096, 0, 8192}, "page size is not served"},
                                         Bad{{0, 4096, 0, 0}, "page size"},
                                         Bad{{0, 128 * MIB, 0, SMALL_PAGE},
                                             "past the end of the source, which has 67108864 bytes: give"},
                                         Bad{{0, 4096, 64 * MIB, SMALL_PAGE}, "past the end"},
                                         Bad{{0, 4096, ~0ull - 4095, SMALL_PAGE}, "past the end"},
                                         Bad{{~0ull - 4095, 8192, 0, SMALL_PAGE},
                                             "wraps around the end of the address space: give"}));

TEST(NotServableTogether, OverlapAndNothingAndTooMany) {
  EXPECT_THAT(*whyNotServable(std::vector<Region>{{8192, 8192, 0, 4096}, {4096, 8192, 0, 4096}}, MIB),
              testing::HasSubstr("overlap: name each address once"));
  EXPECT_THAT(*whyNotServable({}, MIB), testing::HasSubstr("no region"));
  // Regions that are all within the source, and all of the same bytes of it, would need a table of states
  // without bounds.
  std::vector<Region> same;
  for (std::uint64_t i = 0; i < 3; i++) same.push_back({i * MIB, MIB, 0, 4096});
  EXPECT_THAT(*whyNotServable(same, MIB),
              testing::AllOf(testing::HasSubstr("3145728"), testing::HasSubstr("1048576")));
  same.pop_back();
  EXPECT_FALSE(whyNotServable(same, MIB).has_value());
  EXPECT_THAT(*whyNotServable(std::vector<Region>(MAX_REGIONS + 1), MIB), testing::HasSubstr("at most"));
  EXPECT_FALSE(
      whyNotServable(std::vector<Region>{{8192, 8192, 0, 4096}, {0, 8192, 0, 4096}}, MIB).has_value());
}

TEST(NotServableTogether, MorePagesThanASegmentCanTrack) {
  constexpr std::uint64_t HALF = MAX_PAGES / 2 * SMALL_PAGE, SOURCE = HALF + SMALL_PAGE;
  EXPECT_FALSE(
      whyNotServable(std::vector<Region>{{0, HALF, 0, SMALL_PAGE}, {HALF, HALF, 0, SMALL_PAGE}}, SOURCE)
          .has_value());
  EXPECT_THAT(
      *whyNotServable(
          std::vector<Region>{
              {0, HALF, 0, SMALL_PAGE}, {HALF, HALF, 0, SMALL_PAGE}, {2 * HALF, SMALL_PAGE, 0, SMALL_PAGE}},
          SOURCE),
      testing::HasSubstr("17179869185 pages together; at most 17179869184 are served: restore fewer"));
}

}  // namespace
}  // namespace faultline::shm
