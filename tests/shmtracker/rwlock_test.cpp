// The lock between several processes, deaths included.

#include "shmtracker/rwlock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shmtracker/segment.h"
#include "tests/support/child_process.h"
#include "tests/support/exclusive.h"

namespace faultline::shm {
namespace {

using test::ChildProcess;
using test::Signal;

class Lock : public testing::Test {
 protected:
  Segment segment_ = Segment::create({.restoreId = 1,
                                      .name = "test",
                                      .sourceName = "",
                                      .regions = {{0, 64 * SMALL_PAGE, 0, SMALL_PAGE}},
                                      .sourceBytes = 64 * SMALL_PAGE,
                                      .workersPerShard = 2,
                                      .shards = 4});
  RwLock& lock_ = segment_.lock();
  const unsigned slots_ = segment_.activeSlots();
};

TEST_F(Lock, ANewSegmentIsClosed) {
  EXPECT_TRUE(lock_.closed());
  EXPECT_FALSE(lock_.tryLockShared(0).has_value());
}

TEST_F(Lock, AReaderWaitsWhileTheGateIsClosedAndGoesOnWhenItOpens) {
  Signal entered;
  ChildProcess reader([&] {
    auto guard = lock_.lockShared(3);
    entered.send();
  });
  const std::uint64_t epoch = lock_.epoch();
  { auto guard = test::exclusive(segment_); }
  entered.wait();
  EXPECT_EQ(reader.join(), 0);
  EXPECT_EQ(lock_.epoch(), epoch + 1);
}

TEST_F(Lock, TheWriterWaitsForAReaderInside) {
  lock_.open();
  Signal inside, leave;
  ChildProcess reader([&] {
    auto guard = lock_.lockShared(1);
    inside.send();
    leave.wait();
  });
  inside.wait();
  lock_.close();
  unsigned next = 0;
  EXPECT_FALSE(lock_.drainFrom(next, slots_, std::chrono::microseconds(10), {}).has_value());
  EXPECT_EQ(next, 1u);
  EXPECT_FALSE(lock_.tryLockShared(0).has_value());  // closed to newcomers meanwhile
  leave.send();
  EXPECT_TRUE(lock_.drainFrom(next, slots_, std::chrono::seconds(60), {}).has_value());
  EXPECT_FALSE(lock_.closed());
}

TEST_F(Lock, AReaderThatDiesInsideIsReportedOnce) {
  lock_.open();
  Signal inside;
  ChildProcess reader([&] {
    auto guard = lock_.lockShared(2);
    inside.send();
    for (;;) pause();
  });
  inside.wait();
  reader.kill();
  std::vector<unsigned> died;
  const auto ownerDied = [&](unsigned slot) { died.push_back(slot); };
  { auto guard = test::exclusive(segment_, ownerDied); }
  { auto guard = test::exclusive(segment_, ownerDied); }
  EXPECT_THAT(died, testing::ElementsAre(2u));
  EXPECT_FALSE(lock_.lockShared(2).ownerDied);
}

TEST_F(Lock, ASlotsNextUserLearnsOfItsPredecessorsDeath) {
  lock_.open();
  Signal inside;
  ChildProcess reader([&] {
    auto guard = lock_.lockShared(2);
    inside.send();
    for (;;) pause();
  });
  inside.wait();
  reader.kill();
  EXPECT_TRUE(lock_.lockShared(2).ownerDied);
  EXPECT_FALSE(lock_.lockShared(2).ownerDied);
}

TEST_F(Lock, AWriterThatDiesLeavesTheGateClosedUntilItsSuccessorOpensIt) {
  lock_.open();
  Signal closed;
  ChildProcess writer([&] {
    auto guard = test::exclusive(segment_);
    closed.send();
    for (;;) pause();
  });
  closed.wait();
  writer.kill();
  EXPECT_TRUE(lock_.closed());
  EXPECT_FALSE(lock_.tryLockShared(0).has_value());
  { auto guard = test::exclusive(segment_); }
  EXPECT_TRUE(lock_.tryLockShared(0).has_value());
}

TEST_F(Lock, ManyReadersInManyProcessesAndAWriterNeverMeet) {
  lock_.open();
  std::atomic<std::uint64_t>& inside = segment_.counters().faults;  // any word that all of them see
  std::atomic<std::uint64_t>& met = segment_.counters().batches;
  std::vector<std::unique_ptr<ChildProcess>> readers;
  for (unsigned slot = 0; slot < slots_; slot++)
    readers.push_back(std::make_unique<ChildProcess>([&, slot] {
      for (unsigned i = 0; i < 2000; i++) {
        auto guard = lock_.lockShared(slot);
        inside++;
        inside--;
      }
    }));
  for (unsigned i = 0; i < 500; i++) {
    auto guard = test::exclusive(segment_);
    if (inside != 0) met++;
  }
  for (auto& reader : readers) EXPECT_EQ(reader->join(), 0);
  EXPECT_EQ(met, 0u);
}

}  // namespace
}  // namespace faultline::shm
