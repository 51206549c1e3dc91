#include "coordinator/page_suspects.h"

#include <gtest/gtest.h>

namespace faultline::coordinator {
namespace {

class Suspects : public testing::Test {
 protected:
  static constexpr std::uint32_t OWNER = 0;

  // A worker of the owner is busy with `count` pages as it dies.
  void diesAt(shm::PageIndex page, std::uint32_t count, Death death = Death::ofItself) {
    shm::Slot& slot = segment_.slot(segment_.firstSlot(OWNER) + 1);
    slot.inflightPage.store(page);
    slot.inflightCount.store(count);
    suspects_.shardDied(segment_, OWNER, death);
    EXPECT_EQ(slot.inflightCount.load(), 0u);
  }
  std::vector<shm::PageIndex> hopeless() { return suspects_.takeHopeless(segment_, OWNER); }

  shm::Segment segment_ = shm::Segment::create({.restoreId = 7,
                                                .name = "test",
                                                .sourceName = "",
                                                .regions = {{0, 64 * shm::SMALL_PAGE, 0, shm::SMALL_PAGE}},
                                                .sourceBytes = 64 * shm::SMALL_PAGE,
                                                .workersPerShard = 2,
                                                .shards = 1});
  PageSuspects suspects_;
};

TEST_F(Suspects, ThreeDeathsAtAPageGiveItUpOnce) {
  diesAt(5, 1);
  diesAt(5, 1);
  EXPECT_TRUE(hopeless().empty());
  diesAt(5, 1);
  EXPECT_EQ(hopeless(), std::vector<shm::PageIndex>{5});
  EXPECT_TRUE(hopeless().empty());
}

TEST_F(Suspects, ARunAndAPageThatIsNotThereSayNothing) {
  for (unsigned i = 0; i < PageSuspects::LIMIT; i++) {
    diesAt(5, 2);
    diesAt(64, 1);
  }
  EXPECT_TRUE(hopeless().empty());
}

// Slow is not dead: a shard that we killed was not killed by its page.
TEST_F(Suspects, AKillOfOursIsNoEvidence) {
  for (unsigned i = 0; i < PageSuspects::LIMIT; i++) diesAt(5, 1, Death::byUs);
  EXPECT_TRUE(hopeless().empty());
  diesAt(5, 1);
  EXPECT_TRUE(hopeless().empty());
}

TEST_F(Suspects, AnEndedRestoreIsForgotten) {
  for (unsigned i = 0; i < PageSuspects::LIMIT; i++) diesAt(5, 1);
  suspects_.forget(7);
  EXPECT_TRUE(hopeless().empty());
}

}  // namespace
}  // namespace faultline::coordinator
