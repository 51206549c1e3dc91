// Populations that may bring only so many bytes a second.

#include "process/byte_rate.h"

#include <gtest/gtest.h>

#include <future>

#include "shard/later.h"
#include "shard/prefaulter.h"
#include "tests/shard/local_restore.h"

namespace faultline::shard {
namespace {

constexpr std::uint64_t SECOND = 1'000'000'000, MIB = 1u << 20;

TEST(PopulationRate, WithoutALimitNothingWaits) {
  process::ByteRate rate;
  rate.took(1000 * MIB, 7 * SECOND);
  EXPECT_EQ(rate.wait(7 * SECOND), 0u);
  EXPECT_GT(rate.portion(), 2 * MIB);
}

TEST(PopulationRate, WhatWasTakenIsPaidForByTime) {
  process::ByteRate rate;
  rate.limit(10 * MIB);
  std::uint64_t now = 7 * SECOND, bytes = 0;
  for (unsigned i = 0; i < 1000; i++) {
    now += rate.wait(now);
    const std::uint64_t taken = MIB / 64 * (1 + i % 13);
    rate.took(taken, now);
    bytes += taken;
  }
  EXPECT_NEAR(static_cast<double>(now - 7 * SECOND) / SECOND, static_cast<double>(bytes) / (10 * MIB), 0.1);
}

TEST(PopulationRate, OneOfTwoThatTryMayTake) {
  process::ByteRate rate;
  EXPECT_EQ(rate.tryTake(MIB, 7 * SECOND), 0u) << "without a limit";
  rate.limit(10 * MIB);
  EXPECT_EQ(rate.tryTake(10 * MIB, 7 * SECOND), 0u);
  const std::uint64_t wait = rate.tryTake(10 * MIB, 7 * SECOND);
  EXPECT_GT(wait, SECOND * 9 / 10);
  EXPECT_EQ(rate.wait(7 * SECOND), wait) << "what was not taken is not paid for";
  rate.gaveBack(5 * MIB);
  EXPECT_EQ(rate.wait(7 * SECOND), wait - SECOND / 2);
}

// Else a population that had nothing to do for a minute would bring a minute's bytes at once.
TEST(PopulationRate, TimeThatPassedUnusedIsMadeUpForByAMomentOnly) {
  process::ByteRate rate;
  rate.limit(10 * MIB);
  rate.took(MIB, 7 * SECOND);
  rate.took(MIB, 60 * SECOND);
  EXPECT_GT(rate.wait(60 * SECOND), SECOND / 20);
}

TEST(PopulationRate, AnEndedLimitIsForgotten) {
  process::ByteRate rate;
  rate.limit(1);
  rate.took(MIB, 7 * SECOND);
  EXPECT_GT(rate.wait(7 * SECOND), SECOND);
  rate.limit(0);
  EXPECT_EQ(rate.wait(7 * SECOND), 0u);
}

TEST(Later, CallsInTheOrderOfTheirTimes) {
  std::promise<void> called;
  std::vector<int> order;
  Later later;
  ASSERT_TRUE(later.after(SECOND / 5, [&] {
    order.push_back(2);
    called.set_value();
  }));
  ASSERT_TRUE(later.after(SECOND / 100, [&] { order.push_back(1); }));
  called.get_future().get();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(Later, CallsNoneOnceItWasStopped) {
  Later later;
  bool called = false;
  ASSERT_TRUE(later.after(3600 * SECOND, [&] { called = true; }));
  later.stop();
  EXPECT_FALSE(called);
  EXPECT_FALSE(later.after(0, [&] { called = true; }));
}

constexpr std::uint64_t COUNT_OF_RUN = 64;  // pages

struct RatedPopulation : testing::Test {
  ~RatedPopulation() noexcept override {}  // KJ's may throw
  static constexpr std::uint64_t COUNT = 256;
  test::Image image{COUNT * shm::SMALL_PAGE};
  test::LocalRestore restore{image, shm::SMALL_PAGE};
  failpoints::Failpoints failpoints;
  Committer committer{failpoints};
  WorkerPool workers{1};
  Prefaulter prefaulter{committer, workers, 1};
  std::promise<void> done;

  std::uint64_t faulted() {
    std::uint64_t pages = 0;
    for (std::uint64_t page = 0; page < COUNT; page++)
      pages += restore.state(page) == shm::PageState::faulted ? 1 : 0;
    return pages;
  }
  void startAtAPageAnHour() {
    prefaulter.rate().limit(1);
    prefaulter.start(restore.attachment(), 1, {}, [this] { done.set_value(); });
    while (faulted() == 0) sched_yield();
  }
};

// What a job names is about to be touched: its first fault, before the population is there, brings its neighbours.
TEST(PopulationOfARun, LetsAFaultInItBringItsNeighbours) {
  const test::Image image(COUNT_OF_RUN * shm::SMALL_PAGE);
  test::LocalRestore restore(image, shm::SMALL_PAGE, nullptr, 1, 0);
  failpoints::Failpoints failpoints;
  const Committer committer(failpoints);
  WorkerPool workers(1);
  Prefaulter prefaulter(committer, workers, 1);
  prefaulter.rate().limit(1);
  std::promise<void> done;
  prefaulter.start(restore.attachment(), 1, {{32, 16}}, [&] { done.set_value(); });
  EXPECT_EQ(restore.attachment()->around(40), (shm::PageRange{32, 16}));
  EXPECT_EQ(restore.attachment()->around(8), (shm::PageRange{8, 1}));
  prefaulter.cancelAll(1);
  done.get_future().wait();
}

// The only worker has the next task, while the population waits for its time.
TEST_F(RatedPopulation, KeepsNoWorkerWhileItWaits) {
  startAtAPageAnHour();
  std::promise<void> other;
  workers.enqueue([&](unsigned) { other.set_value(); });
  other.get_future().get();
  EXPECT_EQ(faulted(), 1u);
  prefaulter.cancelAll(restore.attachment()->id());
  done.get_future().get();
  EXPECT_EQ(faulted(), 1u);
}

TEST_F(RatedPopulation, GoesOnOnceTheLimitIsLifted) {
  startAtAPageAnHour();
  prefaulter.rate().limit(0);
  done.get_future().get();
  EXPECT_EQ(faulted(), COUNT);
}

}  // namespace
}  // namespace faultline::shard
