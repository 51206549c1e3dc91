// A lock word that rots while all processes live costs its own restore, and no other one.

#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

TEST(DamagedLock, ASlotThatNobodyWillEverGiveBackFailsItsRestoreAlone) {
  TwoRestores two({.shards = SHARDS, .lockDeadlineMs = 50});
  // Held, as it says, by a thread that there cannot be (threads have at most 22 bits).
  two.server.segment(0).slot(1).mutex.__data.__lock = 0x3ffffff0;
  two.target.giveBack(5);
  EXPECT_EQ(two.target.touch(9), Touch::sigbus);
  expectContent(two.bystander, {});
  // Restarts: the slot's own shard, and all shards once. After that no shard can be inside a section of the
  // restore.
  for (auto shard : two.server.status().getShards()) EXPECT_LE(shard.getRestarts(), 2u) << shard.getIndex();
}

// How many slots there are is looked at for each removal: where it makes no sense, every slot is waited for.
TEST(DamagedLock, ANumberOfShardsThatRotsLetsNoSectionPass) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const std::uint64_t page = 2 * EXTENT + 9;  // the third shard's
  auto barrier = server.barrier(page, rpc::FaultPoint::BEFORE_COPY);
  auto read = target.readLater(page);
  server.wait(barrier.waitHeldRequest().send());
  shm::Segment segment = server.segment();
  segment.header().activeShards.store(1);
  auto given = target.giveBackLater(page);
  await([&] { return segment.lock().closed(); });
  server.status();  // a round trip: a drain that passed the section would have ended in it
  EXPECT_TRUE(segment.lock().closed());
  EXPECT_EQ(segment.pages().state(page), shm::PageState::missing);
  segment.header().activeShards.store(SHARDS);
  server.wait(barrier.releaseRequest().send());
  given.get();
  read.get();
  EXPECT_TRUE(target.isAll(page, 0));
}

}  // namespace
}  // namespace faultline::test
