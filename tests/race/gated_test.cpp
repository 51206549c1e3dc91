// A paused restore leaves faults and removals in the kernel's queue; whatever their order there, removals are
// applied before any fault of the same batch is answered.

#include <chrono>

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

class Gated : public OneTarget {
 protected:
  void servePaused() {
    serve();
    pause();
  }
  void pause() { server_->wait(restore_.pauseRequest().send()); }
  void resume() { server_->wait(restore_.resumeRequest().send()); }
};
BOTH_PAGE_SIZES(Gated);

// Interleaving: a page is given back, then touched, before either is read.
TEST_P(Gated, RemoveThenFault) {
  servePaused();
  auto given = target_->giveBackLater(1);
  await([&] { return target_->eventInFlight(); });
  auto read = target_->readLater(1);
  await([&] { return target_->queued().pending == 1; });
  resume();
  given.get();
  // Whether it was answered before the page was zapped or after: the removal was known by then.
  EXPECT_EQ(read.get(), 0);
  EXPECT_TRUE(target_->isAll(1, 0));
}

// Interleaving: a page is touched, then given back, before either is read. The kernel hands out faults first,
// whatever came first.
TEST_P(Gated, FaultThenRemove) {
  servePaused();
  auto read = target_->readLater(1);
  await([&] { return target_->queued().pending == 1; });
  auto given = target_->giveBackLater(1);
  await([&] { return target_->eventInFlight(); });
  resume();
  EXPECT_EQ(read.get(), 0);  // read and removal were in one batch: the removal counts first
  given.get();
  EXPECT_TRUE(target_->isAll(1, 0));
}

// Interleaving: a fault is read together with the removal of others, so its copy may be refused for them.
TEST_P(Gated, FaultOnOnePageRemoveOfAnother) {
  servePaused();
  auto write = target_->writeLater(0, 0x42);
  await([&] { return target_->queued().pending == 1; });
  auto given = target_->giveBackLater(3, 2);
  await([&] { return target_->eventInFlight(); });
  resume();
  write.get();
  given.get();
  EXPECT_EQ(target_->read(0), 0x42);
  EXPECT_EQ(target_->address(0)[1], image_.at(target_->offset(0) + 1));
  EXPECT_TRUE(target_->isAll(3, 0));
  EXPECT_TRUE(target_->isAll(4, 0));
}

// Interleaving: the end of a restore meets a removal that is not read. The removal's caller must not be left
// waiting for a reader that will never come.
TEST_P(Gated, ARemovalThatWaitsWhenTheRestoreEndsIsAnswered) {
  serve();
  target_->read(0);
  pause();
  auto given = target_->giveBackLater(0);
  await([&] { return target_->eventInFlight(); });
  auto detach = restore_.detachRequest();
  detach.setForce(true);
  server_->wait(detach.send());
  given.get();
  EXPECT_TRUE(target_->isAll(0, 0));
}

// Interleaving: the end of the whole service meets a removal that is not read.
TEST_P(Gated, ARemovalThatWaitsWhenTheServiceEndsIsAnswered) {
  serve();
  target_->read(0);
  pause();
  auto given = target_->giveBackLater(0);
  await([&] { return target_->eventInFlight(); });
  restore_ = nullptr;
  server_.reset();
  given.get();
  EXPECT_TRUE(target_->isAll(0, 0));
}

// No interleaving: the other tests rest on pause and resume.
TEST_P(Gated, PausingTwiceAndResumingTwiceAreRefused) {
  servePaused();
  EXPECT_THROW(server_->wait(restore_.pauseRequest().send()), kj::Exception);
  resume();
  EXPECT_THROW(server_->wait(restore_.resumeRequest().send()), kj::Exception);
  EXPECT_TRUE(target_->holdsImage(0));
}

// Interleaving: a worker comes out from before its section as a removal waits unread, so every copy on the
// uffd is refused. Its page is answered in the end without help from the test, and without a hot loop.
TEST_P(Gated, ARefusedPageIsAnsweredInTheEnd) {
  serve();
  auto barrier = server_->barrier(7, rpc::FaultPoint::BEFORE_READ_LOCK);
  auto read = target_->readLater(7);
  server_->wait(barrier.waitHeldRequest().send());
  pause();
  auto given = target_->giveBackLater(1);
  await([&] { return target_->eventInFlight(); });
  const auto begun = std::chrono::steady_clock::now();
  server_->wait(barrier.releaseRequest().send());
  // A try comes after a pause, 1 us at first, twice as long each time, up to 1 ms: 31 pauses are 22 ms.
  shm::Segment segment = server_->segment();
  shm::ShardCounters& counters = segment.shardCounters(server_->ownerOf(7));
  await([&] { return counters.refused.load() >= 32; });
  EXPECT_GE(std::chrono::steady_clock::now() - begun, std::chrono::milliseconds(22));
  // A page that waits for its next try holds no slot.
  for (unsigned slot = 0; slot < segment.activeSlots(); slot++)
    await([&] { return segment.lock().tryLockShared(slot).has_value(); });
  resume();
  given.get();
  EXPECT_EQ(read.get(), image_.at(target_->offset(7)));
}

}  // namespace
}  // namespace faultline::test
