// How a population takes turns with faults.

#include "shard/pace.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <future>

#include "shard/prefaulter.h"
#include "tests/shard/local_restore.h"

namespace faultline::shard {
namespace {

constexpr std::uint64_t MS = 1'000'000;

// A population that goes on in sections of 32 pages, each 100 us, while faults come.
struct Going {
  Pace pace;
  std::uint64_t faults = 0, now = 1'000 * MS;

  // Yields over so many sections of so many pages, with so many faults in each.
  unsigned yields(unsigned sections, unsigned faultsInEach, unsigned pages = 32) {
    unsigned yields = 0;
    for (unsigned i = 0; i < sections; i++) {
      faults += faultsInEach;
      now += MS / 10;
      yields += pace.yields(pages, faults, now) ? 1 : 0;
    }
    return yields;
  }
};

TEST(Pace, WhereNoFaultComesNothingIsYielded) {
  Going going;
  EXPECT_EQ(going.yields(1000, 0), 0u);
}

// One fault to some hundred pages: it would wait for a slice of the worker's.
TEST(Pace, WhereFaultsAreRareThereAreShortSectionsAndAYieldAfterAFewPages) {
  Going going;
  unsigned yields = 0;
  for (unsigned i = 0; i < 100; i++) yields += going.yields(1, 1) + going.yields(9, 0);
  EXPECT_EQ(yields, 1000u) << "after each section of 16 pages or more";
  EXPECT_EQ(going.yields(1, 1, 4) + going.yields(39, 0, 4), 10u)
      << "each 16 pages where sections are shorter";
  EXPECT_EQ(going.pace.sections().longest, 32u);
}

TEST(Pace, SomeTimeAfterTheLastFaultNothingIsYieldedAnyMore) {
  Going going;
  EXPECT_GT(going.yields(10, 1), 0u);
  going.now += 5 * MS;
  EXPECT_EQ(going.yields(100, 0), 0u);
}

// The population brings their pages sooner than a yield would.
TEST(Pace, WhereFaultsAreDenseSectionsAreLongAndThePopulationGoesOn) {
  Going going;
  going.yields(100, 4);
  EXPECT_GT(going.pace.sections().longest, 32u);
  EXPECT_EQ(going.yields(100, 4), 0u);
}

TEST(Pace, IsThatOfRareFaultsAgainOnceTheyAre) {
  Going going;
  going.yields(100, 4);
  for (unsigned i = 0; i < 10; i++) going.yields(1, 1), going.yields(9, 0);
  EXPECT_EQ(going.pace.sections().longest, 32u);
}

// What is missing around the latest fault is likely to be touched next.
TEST(Population, BringsThePagesAroundTheLatestFaultFirst) {
  constexpr std::uint64_t WINDOW = 512, COUNT = 4 * WINDOW;
  const test::Image image(COUNT * shm::SMALL_PAGE);
  const test::LocalRestore restore(image, shm::SMALL_PAGE);
  failpoints::Failpoints failpoints;
  const Committer committer(failpoints);
  WorkerPool workers(1);
  Prefaulter prefaulter(committer, workers, 1);
  const int reached = eventfd(0, EFD_CLOEXEC), go = eventfd(0, EFD_CLOEXEC);
  failpoints.arm({.point = failpoints::Point::beforeStage,
                  .action = failpoints::Action::park,
                  .page = 2 * WINDOW,
                  .skip = 0,
                  .reached = kj::AutoCloseFd(dup(reached)),
                  .reached2 = {},
                  .resume = kj::AutoCloseFd(dup(go))});
  const shm::Segment& segment = restore.attachment()->segment();
  restore.attachment()->segment().slot(segment.firstSlot(0)).inflightPage = 2 * WINDOW + 300;
  std::promise<void> done;
  prefaulter.start(restore.attachment(), 1, {}, [&] { done.set_value(); });
  std::uint64_t value = 0;
  ASSERT_EQ(read(reached, &value, sizeof value), ssize_t{sizeof value});
  for (std::uint64_t page = 0; page < COUNT; page++)
    ASSERT_EQ(restore.state(page), shm::PageState::missing) << page;
  ASSERT_EQ(write(go, &value, sizeof value), ssize_t{sizeof value});
  done.get_future().get();
  for (std::uint64_t page = 0; page < COUNT; page++)
    ASSERT_EQ(restore.state(page), shm::PageState::faulted) << page;
  close(reached);
  close(go);
}

}  // namespace
}  // namespace faultline::shard
