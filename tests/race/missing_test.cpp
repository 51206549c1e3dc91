// Pages that were never populated come with the source's bytes, however many threads ask at once.

#include <random>
#include <thread>

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

class Missing : public RaceTest {};
BOTH_PAGE_SIZES(Missing);

TEST_P(Missing, AReadFaultBringsThePage) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  for (const std::uint64_t page : {std::uint64_t{0}, pages() / 2, pages() - 1})
    EXPECT_TRUE(target.holdsImage(page));
  auto restore = server.restore();
  awaitState(server, restore, 0, rpc::PageState::FAULTED);
  EXPECT_EQ(stateOf(server, restore, 1), rpc::PageState::MISSING);
}

TEST_P(Missing, AWriteFaultBringsThePageAndTheWriteSticks) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  target.write(3, 0xee);
  EXPECT_EQ(target.read(3), 0xee);
  EXPECT_EQ(target.address(3)[1], image.at(target.offset(3) + 1));
}

TEST_P(Missing, ZeroPagesAndHolesReadAsZeros) {
  Image image(imageBytes());
  image.zero(0, pageSize());
  image.hole(pageSize() * 2, pageSize());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  EXPECT_TRUE(target.isAll(0, 0));
  EXPECT_TRUE(target.isAll(2, 0));
  EXPECT_TRUE(target.holdsImage(1));
  target.write(2, 7);
  EXPECT_EQ(target.read(2), 7);
  auto restore = server.restore();
  std::uint64_t zeroed = 0;
  const auto stats = server.wait(restore.statsRequest().send());
  for (auto shard : stats.getStats().getShards()) zeroed += shard.getZeroed();
  // Of huge pages neither written zeros nor holes that are in the page cache are looked for: they are bytes.
  if (pageSize() == SMALL) {
    EXPECT_EQ(zeroed, 2u);
  }
}

TEST_P(Missing, EveryPageOfSeveralRegionsComesFromItsOwnOffset) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize(), 4);
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

TEST_P(Missing, ManyThreadsAtRandomGetTheRightPages) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize(), 2);
  std::atomic<std::uint64_t> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 8; i++)
    threads.emplace_back([&, i] {
      std::mt19937_64 random(i);
      for (unsigned n = 0; n < 200; n++)
        if (!target.holdsImage(random() % target.pages())) wrong++;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
}

TEST_P(Missing, ManyThreadsOnOnePageAreAllAnswered) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  std::vector<std::future<unsigned char>> reads;
  for (unsigned i = 0; i < 32; i++) reads.push_back(target.readLater(5));
  for (auto& read : reads) EXPECT_EQ(read.get(), image.at(target.offset(5)));
}

TEST_P(Missing, ATargetWithoutRemoveEventsIsServedToo) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize(), 1, FAULTLINE_NO_REMOVE);
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
  // Given back without a word to us: populated once, so never the source's bytes again.
  target.giveBack(1);
  EXPECT_TRUE(target.isAll(1, 0));
}

TEST_P(Missing, TwoTargetsAtOnceDoNotTouchEachOther) {
  Image image(imageBytes());
  Server server(image);
  Target first(image, server.socket(), pageSize());
  server.restore(0);
  Target second(image, server.socket(), pageSize());
  server.restore(1);
  EXPECT_TRUE(first.holdsImage(1));
  EXPECT_TRUE(second.holdsImage(1));
  first.giveBack(1, 2);
  EXPECT_TRUE(first.isAll(1, 0));
  EXPECT_TRUE(second.holdsImage(1));
  EXPECT_TRUE(second.holdsImage(2));
}

}  // namespace
}  // namespace faultline::test
