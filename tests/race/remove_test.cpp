// Pages that the target gave up read as zeros, whatever they were before, and take writes again.

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

class Remove : public RaceTest {};
BOTH_PAGE_SIZES(Remove);

TEST_P(Remove, OfAFaultedPage) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  EXPECT_TRUE(target.holdsImage(2));
  target.giveBack(2);
  auto restore = server.restore();
  EXPECT_EQ(stateOf(server, restore, 2), rpc::PageState::REMOVED);
  EXPECT_TRUE(target.isAll(2, 0));
  awaitState(server, restore, 2, rpc::PageState::FAULTED);
  target.write(2, 0x77);
  EXPECT_EQ(target.read(2), 0x77);
}

TEST_P(Remove, OfAPageThatWasNeverTouched) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  target.giveBack(1);
  EXPECT_TRUE(target.isAll(1, 0));
  EXPECT_TRUE(target.holdsImage(0));
  EXPECT_TRUE(target.holdsImage(2));
}

TEST_P(Remove, OfAPartlyFaultedRange) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  EXPECT_TRUE(target.holdsImage(3));
  EXPECT_TRUE(target.holdsImage(5));
  target.giveBack(2, 5);
  for (std::uint64_t page = 2; page < 7; page++) EXPECT_TRUE(target.isAll(page, 0)) << page;
  EXPECT_TRUE(target.holdsImage(1));
  EXPECT_TRUE(target.holdsImage(7));
}

TEST_P(Remove, OverTheExtentsOfSeveralShards) {
  Image image(imageBytes());
  Server server(image, {.shards = 3});
  Target target(image, server.socket(), pageSize());
  server.restore();
  const std::uint64_t extent = pageSize() == SMALL ? 512 : 4;
  EXPECT_NE(server.ownerOf(0), server.ownerOf(extent));
  target.giveBack(extent - 2, extent + 4);
  for (std::uint64_t page = extent - 2; page < 2 * extent + 2; page++)
    EXPECT_TRUE(target.isAll(page, 0)) << page;
  EXPECT_TRUE(target.holdsImage(extent - 3));
  EXPECT_TRUE(target.holdsImage(2 * extent + 2));
}

TEST_P(Remove, OfAWholeRegionAndItsEndOnly) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize(), 2);
  const std::uint64_t half = target.pages() / 2;
  target.giveBack(half - 1);
  target.giveBack(half, half);
  EXPECT_TRUE(target.isAll(half - 1, 0));
  EXPECT_TRUE(target.holdsImage(half - 2));
  for (std::uint64_t page = half; page < 2 * half; page++) ASSERT_TRUE(target.isAll(page, 0)) << page;
}

TEST_P(Remove, AgainAndAgainWithFaultsBetween) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  for (unsigned round = 0; round < 5; round++) {
    target.giveBack(4);
    EXPECT_TRUE(target.isAll(4, 0)) << round;
    target.write(4, static_cast<unsigned char>(round + 1));
    EXPECT_EQ(target.read(4), round + 1);
  }
  target.giveBack(4);
  target.giveBack(4);
  EXPECT_TRUE(target.isAll(4, 0));
}

// The tracker says what the kernel says, at rest.
TEST_P(Remove, TheTrackerAgreesWithThePageTable) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  for (std::uint64_t page = 0; page < 8; page++) target.read(page);
  target.giveBack(2, 3);
  target.read(3);
  auto restore = server.restore();
  for (std::uint64_t page = 0; page < 12; page++) {
    if (target.inMemory(page))
      awaitState(server, restore, page, rpc::PageState::FAULTED);
    else
      EXPECT_NE(stateOf(server, restore, page), rpc::PageState::FAULTED) << page;
  }
}

}  // namespace
}  // namespace faultline::test
