// The write side alone, with readers that are processes.

#include "coordinator/write_side.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <signal.h>

#include <vector>

#include "tests/support/child_process.h"

namespace faultline::coordinator {
namespace {

using test::ChildProcess;
using test::Signal;

// (No fixture: KJ's destructors may throw, gtest's may not.)
struct Writer {
  explicit Writer(std::chrono::milliseconds deadline = std::chrono::seconds(60)) {
    options.lockDeadline = deadline;
    lock.open();
  }
  // A reader that stays in its section until it is killed.
  std::unique_ptr<ChildProcess> readerIn(unsigned slot) {
    Signal inside;
    auto reader = std::make_unique<ChildProcess>([&] {
      auto guard = lock.lockShared(slot);
      inside.send();
      for (;;) ::pause();
    });
    inside.wait();
    return reader;
  }
  void turn() { timer.afterDelay(0 * kj::SECONDS).wait(io.waitScope); }

  kj::AsyncIoContext io = kj::setupAsyncIo();
  kj::Timer& timer = io.provider->getTimer();
  Options options;
  shm::Segment segment = shm::Segment::create({.restoreId = 1,
                                               .name = "vm",
                                               .sourceName = "",
                                               .regions = {{0, 64 * shm::SMALL_PAGE, 0, shm::SMALL_PAGE}},
                                               .sourceBytes = 64 * shm::SMALL_PAGE,
                                               .workersPerShard = 2,
                                               .shards = 4});
  shm::RwLock& lock = segment.lock();
  std::vector<unsigned> fenced;
  std::function<bool(unsigned slot)> fence = [](unsigned) { return false; };
  WriteSide writeSide{timer, segment, options, [this](unsigned slot) {
                        fenced.push_back(slot);
                        return fence(slot);
                      }};
};

TEST(WriteSide, ASectionInFlightIsWaitedForWhileTheLoopGoesOn) {
  Writer writer;
  Signal inside, leave;
  ChildProcess reader([&] {
    auto guard = writer.lock.lockShared(5);
    inside.send();
    leave.wait();
  });
  inside.wait();
  writer.writeSide.close();
  EXPECT_FALSE(writer.writeSide.tryDrain().has_value());
  bool alone = false;
  auto drained =
      writer.writeSide.drained().then([&](shm::ExclusiveGuard) { alone = true; }).eagerlyEvaluate(nullptr);
  for (unsigned i = 0; i < 3; i++) writer.turn();
  EXPECT_FALSE(alone);
  EXPECT_TRUE(writer.writeSide.taken());
  EXPECT_TRUE(writer.lock.closed());
  leave.send();
  drained.wait(writer.io.waitScope);
  EXPECT_TRUE(alone);
  EXPECT_FALSE(writer.writeSide.taken());
  EXPECT_TRUE(writer.fenced.empty());
  EXPECT_EQ(reader.join(), 0);
}

TEST(WriteSide, AReaderPastTheDeadlineIsFenced) {
  Writer writer(std::chrono::milliseconds(5));
  const auto reader = writer.readerIn(5);
  ::kill(reader->pid(), SIGSTOP);
  writer.fence = [&](unsigned) {
    reader->kill();
    return true;
  };
  writer.writeSide.close();
  auto guard = writer.writeSide.drained().wait(writer.io.waitScope);
  EXPECT_THAT(writer.fenced, testing::ElementsAre(5u));
  EXPECT_EQ(writer.segment.counters().fences, 1u);
  EXPECT_EQ(writer.segment.counters().slotsRecovered, 1u);
}

TEST(WriteSide, AReaderThatCannotBeFencedYetIsFencedLater) {
  Writer writer(std::chrono::milliseconds(1));
  const auto reader = writer.readerIn(0);
  writer.fence = [&](unsigned) {
    if (writer.fenced.size() < 3) return false;
    reader->kill();
    return true;
  };
  writer.writeSide.close();
  auto guard = writer.writeSide.drained().wait(writer.io.waitScope);
  EXPECT_THAT(writer.fenced, testing::ElementsAre(0u, 0u, 0u));
  EXPECT_EQ(writer.segment.counters().fences, 1u);
}

// Its word says that it is held, and the process that used it is dead: the restore fails, and no more processes with
// it.
TEST(WriteSide, AHeldSlotOfADeadProcessIsALockBeyondRepair) {
  Writer writer(std::chrono::milliseconds(1));
  const auto reader = writer.readerIn(3);
  writer.fence = [](unsigned) { return true; };
  bool ran = false;
  auto asked = writer.writeSide.exclusively([&](const shm::ExclusiveGuard&) { ran = true; });
  EXPECT_ANY_THROW(asked.wait(writer.io.waitScope));
  EXPECT_FALSE(ran);
  EXPECT_FALSE(writer.lock.closed());
  EXPECT_THAT(writer.fenced, testing::ElementsAre(3u));
  // Known now: it is not asked for again.
  auto again = writer.writeSide.exclusively([&](const shm::ExclusiveGuard&) { ran = true; });
  EXPECT_ANY_THROW(again.wait(writer.io.waitScope));
  EXPECT_THAT(writer.fenced, testing::ElementsAre(3u));
}

TEST(WriteSide, IsHeldByOneAtATime) {
  Writer writer;
  auto paf = kj::newPromiseAndFulfiller<void>();
  bool ran = false;
  auto first = writer.writeSide.alone(kj::mv(paf.promise)).eagerlyEvaluate(nullptr);
  auto second = writer.writeSide.exclusively([&](const shm::ExclusiveGuard&) {
    ran = true;
    EXPECT_TRUE(writer.lock.closed());
  });
  second = second.eagerlyEvaluate(nullptr);
  for (unsigned i = 0; i < 3; i++) writer.turn();
  EXPECT_FALSE(ran);
  EXPECT_FALSE(writer.lock.closed());
  paf.fulfiller->fulfill();
  first.wait(writer.io.waitScope);
  second.wait(writer.io.waitScope);
  EXPECT_TRUE(ran);
  EXPECT_FALSE(writer.lock.closed());
}

TEST(WriteSide, WhatIsDroppedGivesItFree) {
  Writer writer;
  {
    auto work = writer.writeSide.alone(kj::Promise<void>(kj::NEVER_DONE));
    EXPECT_TRUE(writer.writeSide.taken());
  }
  EXPECT_FALSE(writer.writeSide.taken());
}

}  // namespace
}  // namespace faultline::coordinator
