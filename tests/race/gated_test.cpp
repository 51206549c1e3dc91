// A paused restore leaves faults and removals in the kernel's queue; whatever their order there, removals are
// applied before any fault of the same batch is answered.

#include <chrono>
#include <optional>

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

class Gated : public RaceTest {};
BOTH_PAGE_SIZES(Gated);

TEST_P(Gated, RemoveThenFault) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  auto given = target.giveBackLater(1);
  await([&] { return target.eventInFlight(); });
  auto read = target.readLater(1);
  await([&] { return target.queued().pending == 1; });
  server.wait(restore.resumeRequest().send());
  given.get();
  // The read may have come before the page was zapped; once the madvise has returned it is zeros.
  read.get();
  EXPECT_TRUE(target.isAll(1, 0));
}

TEST_P(Gated, FaultThenRemove) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  auto read = target.readLater(1);
  await([&] { return target.queued().pending == 1; });
  auto given = target.giveBackLater(1);
  await([&] { return target.eventInFlight(); });
  server.wait(restore.resumeRequest().send());
  EXPECT_EQ(read.get(), 0);  // both were in one batch: the removal counts first
  given.get();
  EXPECT_TRUE(target.isAll(1, 0));
}

TEST_P(Gated, FaultOnOnePageRemoveOfAnother) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  auto write = target.writeLater(0, 0x42);
  await([&] { return target.queued().pending == 1; });
  auto given = target.giveBackLater(3, 2);
  await([&] { return target.eventInFlight(); });
  server.wait(restore.resumeRequest().send());
  write.get();
  given.get();
  EXPECT_EQ(target.read(0), 0x42);
  EXPECT_EQ(target.address(0)[1], image.at(target.offset(0) + 1));
  EXPECT_TRUE(target.isAll(3, 0));
  EXPECT_TRUE(target.isAll(4, 0));
}

// The end of a restore meets a removal that nobody has read: its caller must not be left waiting for a reader
// that will never come.
TEST_P(Gated, ARemovalThatWaitsWhenTheRestoreEndsIsAnswered) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  target.read(0);
  server.wait(restore.pauseRequest().send());
  auto given = target.giveBackLater(0);
  await([&] { return target.eventInFlight(); });
  auto detach = restore.detachRequest();
  detach.setForce(true);
  server.wait(detach.send());
  given.get();
  EXPECT_TRUE(target.isAll(0, 0));
}

TEST_P(Gated, ARemovalThatWaitsWhenTheServiceEndsIsAnswered) {
  Image image(imageBytes());
  std::optional<Server> server(std::in_place, image);
  Target target(image, server->socket(), pageSize());
  {
    auto restore = server->restore();
    target.read(0);
    server->wait(restore.pauseRequest().send());
  }
  auto given = target.giveBackLater(0);
  await([&] { return target.eventInFlight(); });
  server.reset();
  given.get();
  EXPECT_TRUE(target.isAll(0, 0));
}

TEST_P(Gated, PausingTwiceAndResumingTwiceAreRefused) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  EXPECT_THROW(server.wait(restore.pauseRequest().send()), kj::Exception);
  server.wait(restore.resumeRequest().send());
  EXPECT_THROW(server.wait(restore.resumeRequest().send()), kj::Exception);
  EXPECT_TRUE(target.holdsImage(0));
}

// A page that meets EAGAIN is answered in the end without help from the test, and without a hot loop: while
// the restore is paused a removal stays unread, so every copy on the uffd is refused.
TEST_P(Gated, ARefusedPageIsAnsweredInTheEnd) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  auto barrier = server.barrier(7, rpc::FaultPoint::BEFORE_READ_LOCK);
  auto read = target.readLater(7);
  server.wait(barrier.waitHeldRequest().send());
  server.wait(restore.pauseRequest().send());
  auto given = target.giveBackLater(1);
  await([&] { return target.eventInFlight(); });
  const auto begun = std::chrono::steady_clock::now();
  server.wait(barrier.releaseRequest().send());
  // Each try comes after a pause, 1 us at first, twice as long each time, up to 1 ms: 31 of them are 22 ms.
  shm::Segment segment = server.segment();
  shm::ShardCounters& counters = segment.shardCounters(server.ownerOf(7));
  await([&] { return counters.refused.load() >= 32; });
  EXPECT_GE(std::chrono::steady_clock::now() - begun, std::chrono::milliseconds(22));
  // No slot is held while it waits for its next try.
  for (unsigned slot = 0; slot < segment.activeSlots(); slot++)
    await([&] { return segment.lock().tryLockShared(slot).has_value(); });
  server.wait(restore.resumeRequest().send());
  given.get();
  EXPECT_EQ(read.get(), image.at(target.offset(7)));
}

}  // namespace
}  // namespace faultline::test
