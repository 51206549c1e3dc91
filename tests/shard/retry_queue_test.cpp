// Refused pages: when they come back, and the fate of pages that find no place.

#include "shard/retry_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>

#include "process/clock.h"
#include "shard/fault_loop.h"
#include "tests/shard/local_restore.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"

namespace faultline::shard {
namespace {

constexpr std::uint64_t NOW = 1'000'000'000;

// Two restores that are not looked into.
Attachment* const ONE = reinterpret_cast<Attachment*>(64);
Attachment* const OTHER = reinterpret_cast<Attachment*>(128);

TEST(RetryQueue, EachRefusalDoublesTheDelayUpToAMillisecond) {
  std::uint64_t expected = RetryQueue::FIRST_DELAY;
  for (std::uint32_t tries = 1; tries < 100; tries++) {
    RetryQueue queue;
    queue.push({.restore = ONE, .tries = tries}, NOW);
    ASSERT_EQ(queue.nextDue(), NOW + expected) << tries;
    EXPECT_FALSE(queue.popDue(NOW + expected - 1).has_value()) << tries;
    EXPECT_TRUE(queue.popDue(NOW + expected).has_value()) << tries;
    EXPECT_FALSE(queue.nextDue().has_value());
    expected = std::min(expected * 2, RetryQueue::LAST_DELAY);
  }
}

TEST(RetryQueue, TheEarliestComesFirst) {
  RetryQueue queue;
  for (const std::uint32_t tries : {3, 1, 2})
    queue.push({.restore = ONE, .page = tries, .tries = tries}, NOW);
  for (const shm::PageIndex page : {1, 2, 3}) EXPECT_EQ(queue.popDue(2 * NOW)->page, page);
}

TEST(RetryQueue, TakesSoManyAndNoMoreUntilOneHasGone) {
  RetryQueue queue;
  for (std::size_t i = 0; i < RetryQueue::CAPACITY; i++) ASSERT_TRUE(queue.push({.restore = ONE}, NOW)) << i;
  EXPECT_FALSE(queue.push({.restore = ONE}, NOW));
  queue.popDue(2 * NOW);
  EXPECT_TRUE(queue.push({.restore = ONE}, NOW));
  EXPECT_FALSE(queue.push({.restore = ONE}, NOW));
}

TEST(RetryQueue, ForgetsTheFaultsOfOneRestore) {
  RetryQueue queue;
  for (std::uint32_t i = 1; i <= 6; i++)
    queue.push({.restore = i % 2 == 0 ? ONE : OTHER, .page = i, .tries = 7 - i}, NOW);
  queue.forget(ONE);
  for (const shm::PageIndex page : {5, 3, 1}) EXPECT_EQ(queue.popDue(2 * NOW)->page, page);
  EXPECT_FALSE(queue.nextDue().has_value());
}

struct NoEvents final : FaultLoopEvents {
  void pagePoisoned(const Attachment&, shm::PageIndex, std::string reason) override {
    ADD_FAILURE() << reason;
  }
  void pageLost(const Attachment&, shm::PageIndex, std::string reason) override { ADD_FAILURE() << reason; }
};

// Interleaving: a removal waits, unread, while more faults are refused than there are places for. The kernel
// queues the others again, as often as they come; all are answered once the removal is read.
TEST(RefusedFaults, BeyondTheQueueAreQueuedAgainByTheKernel) {
  constexpr std::size_t FAULTS = 7, PLACES = 2, BEYOND = FAULTS - PLACES;
  test::Image image((FAULTS + 1) * test::SMALL);
  test::LocalRestore restore(image, test::SMALL);
  failpoints::Failpoints failpoints;
  const Committer committer(failpoints);
  WorkerPool workers(1);
  NoEvents events;
  FaultLoop loop(committer, workers, events, {.retries = PLACES});
  loop.attach(restore.attachment());
  const auto& counters = restore.attachment()->counters();

  std::vector<std::future<unsigned char>> reads;
  for (shm::PageIndex page = 0; page < FAULTS; page++)
    reads.push_back(std::async(std::launch::async, [&restore, page] { return *restore.page(page); }));
  auto faults = restore.takeFaults(FAULTS);
  auto given = std::async(std::launch::async, [&] { restore.giveBack(FAULTS, 1); });
  test::await([&] { return uffd::eventInFlight(restore.uffd()); });
  for (std::uint64_t round = 1; round <= 2; round++) {
    loop.serve(restore.attachment()->id(), process::nowNs(), faults);
    faults = restore.takeFaults(BEYOND);
    EXPECT_EQ(counters.requeued.load(), round * BEYOND);
  }
  EXPECT_THAT(restore.readAndPublish(), testing::IsEmpty());
  given.get();
  loop.serve(restore.attachment()->id(), process::nowNs(), faults);
  for (shm::PageIndex page = 0; page < FAULTS; page++)
    EXPECT_EQ(reads[page].get(), image.at(page * test::SMALL)) << page;
  EXPECT_EQ(counters.requeued.load(), 2 * BEYOND);
  for (shm::PageIndex page = 0; page < FAULTS; page++)
    EXPECT_EQ(restore.state(page), shm::PageState::faulted);
}

}  // namespace
}  // namespace faultline::shard
