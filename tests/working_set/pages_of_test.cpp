// From ranges of the source to pages of a restore, whatever its regions are.

#include <capnp/message.h>
#include <gtest/gtest.h>
#include <kj/exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include "coordinator/working_set.h"
#include "rpc/convert.h"

namespace faultline::coordinator {
namespace {

constexpr std::uint64_t KIB4 = shm::SMALL_PAGE, MIB2 = shm::HUGE_PAGE;
using Ranges = std::vector<shm::PageRange>;

// Page numbers follow addresses, the source's order is the other way round.
const std::vector<shm::Region> SWAPPED = {{0x10000, 4 * KIB4, 8 * KIB4, KIB4}, {0x80000, 8 * KIB4, 0, KIB4}};

TEST(PagesOf, FollowTheOrderOfTheSet) {
  const WorkingSet set{KIB4, {{9 * KIB4, KIB4}, {0, 2 * KIB4}, {8 * KIB4, KIB4}}};
  EXPECT_EQ(pagesOf(set, SWAPPED), (Ranges{{1, 1}, {4, 2}, {0, 1}}));
}

TEST(PagesOf, ARangeOverTwoRegionsGoesInTheSourcesOrder) {
  const WorkingSet set{KIB4, {{6 * KIB4, 4 * KIB4}}};
  EXPECT_EQ(pagesOf(set, SWAPPED), (Ranges{{10, 2}, {0, 2}}));
}

TEST(PagesOf, WhatNoRegionCoversIsLeftOut) {
  const WorkingSet set{KIB4, {{12 * KIB4, 4 * KIB4}, {11 * KIB4, 3 * KIB4}}};
  EXPECT_EQ(pagesOf(set, SWAPPED), (Ranges{{3, 1}}));
}

TEST(PagesOf, BytesThatTwoRegionsShareArePagesOfBoth) {
  // The long one begins first and ends last.
  const std::vector<shm::Region> shared = {{0x10000, 16 * KIB4, 0, KIB4},
                                           {0x80000, 2 * KIB4, 2 * KIB4, KIB4},
                                           {0x90000, 2 * KIB4, 8 * KIB4, KIB4}};
  EXPECT_EQ(pagesOf({KIB4, {{3 * KIB4, KIB4}}}, shared), (Ranges{{3, 1}, {17, 1}}));
  EXPECT_EQ(pagesOf({KIB4, {{12 * KIB4, KIB4}}}, shared), (Ranges{{12, 1}}));
}

TEST(PagesOf, SmallRangesTouchWholeHugePages) {
  const std::vector<shm::Region> mixed = {{0x10000, 4 * KIB4, 0, KIB4}, {1u << 30, 2 * MIB2, MIB2, MIB2}};
  EXPECT_EQ(pagesOf({KIB4, {{MIB2 + 5 * KIB4, KIB4}}}, mixed), (Ranges{{4, 1}}));
}

// Of a source whose size is not known when the set comes, this is the check of its claims.
TEST(PagesOf, WhatIsNotOfTheSourceIsNotUsable) {
  const std::uint64_t bytes = 16 * KIB4;
  EXPECT_FALSE(whyNotUsable({KIB4, {{8 * KIB4, 8 * KIB4}, {0, 8 * KIB4}}}, SWAPPED, bytes).has_value());
  EXPECT_TRUE(whyNotUsable({KIB4, {{16 * KIB4, KIB4}}}, SWAPPED, bytes).has_value());
  EXPECT_TRUE(whyNotUsable({KIB4, {{8 * KIB4, 9 * KIB4}}}, SWAPPED, bytes).has_value());
  EXPECT_TRUE(whyNotUsable({KIB4, {{~0ull - KIB4, KIB4}}}, SWAPPED, bytes).has_value());
  EXPECT_TRUE(whyNotUsable({KIB4, {{0, bytes}, {KIB4, KIB4}}}, SWAPPED, bytes).has_value());
}

TEST(PagesOf, RecordedWithAnotherPageSizeIsNotUsable) {
  constexpr std::uint64_t ANY = ~0ull;

  EXPECT_FALSE(whyNotUsable({KIB4, {{0, KIB4}}}, SWAPPED, ANY).has_value());
  EXPECT_TRUE(whyNotUsable({MIB2, {{0, MIB2}}}, SWAPPED, ANY).has_value());
  // None given.
  EXPECT_FALSE(whyNotUsable({}, SWAPPED, ANY).has_value());
}

class FromAPeer : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(ftruncate(source_, 16 * KIB4), 0); }
  ~FromAPeer() override { close(source_); }
  WorkingSet take(const std::vector<SourceRange>& ranges) {
    capnp::MallocMessageBuilder message;
    auto root = message.initRoot<rpc::WorkingSet>();
    fill(root, WorkingSet{KIB4, ranges});
    return workingSetFrom(root.asReader(), source_);
  }

  const int source_ = memfd_create("test", MFD_CLOEXEC);
};

TEST_F(FromAPeer, IsTakenAsItIs) {
  const WorkingSet set = take({{KIB4, 2 * KIB4}, {0, KIB4}});
  EXPECT_EQ(set.pageSize, KIB4);
  ASSERT_EQ(set.ranges.size(), 2u);
  EXPECT_EQ(set.ranges[0].offset, KIB4);
  EXPECT_EQ(set.ranges[0].size, 2 * KIB4);
}

TEST_F(FromAPeer, OutsideOfTheSourceIsRefused) {
  EXPECT_THROW(take({{16 * KIB4, KIB4}}), kj::Exception);
  EXPECT_THROW(take({{KIB4, 16 * KIB4}}), kj::Exception);
  EXPECT_THROW(take({{~0ull - KIB4 + 1, KIB4}}), kj::Exception);
  EXPECT_THROW(take({{KIB4, ~0ull - KIB4 + 1}}), kj::Exception);
}

TEST_F(FromAPeer, MoreThanTheSourceIsRefused) {
  EXPECT_NO_THROW(take({{0, 16 * KIB4}}));
  EXPECT_THROW(take({{0, 16 * KIB4}, {0, KIB4}}), kj::Exception);
}

TEST_F(FromAPeer, TooManyRangesAreRefused) {
  EXPECT_THROW(take(std::vector<SourceRange>(WorkingSet::MAX_RANGES + 1)), kj::Exception);
}

}  // namespace
}  // namespace faultline::coordinator
