// How a population takes turns with faults.

#include "shard/pace.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <optional>

#include "shard/prefaulter.h"
#include "tests/shard/local_restore.h"
#include "tests/support/server.h"

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
  EXPECT_EQ(going.pace.sections(false).longest, 32u);
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
  EXPECT_GT(going.pace.sections(false).longest, 32u);
  EXPECT_EQ(going.yields(100, 4), 0u);
}

// A removal waits for the section that it meets, however many faults come.
TEST(Pace, WhereRemovalsComeSectionsAreShortThoughFaultsAreDense) {
  Going going;
  const Pace::Sections rare = going.pace.sections(false);
  going.yields(100, 4);
  EXPECT_EQ(going.pace.sections(true).shortest, rare.shortest);
  EXPECT_EQ(going.pace.sections(true).longest, rare.longest);
}

TEST(Pace, IsThatOfRareFaultsAgainOnceTheyAre) {
  Going going;
  going.yields(100, 4);
  for (unsigned i = 0; i < 10; i++) going.yields(1, 1), going.yields(9, 0);
  EXPECT_EQ(going.pace.sections(false).longest, 32u);
}

// Populations of four windows of the source, with the first look for bytes of one page held.
class Population : public testing::Test {
 protected:
  ~Population() noexcept override {}  // KJ's may throw
  static constexpr std::uint64_t WINDOW = 512, COUNT = 4 * WINDOW;

  void holdAt(shm::PageIndex page) {
    failpoints_.arm({.point = failpoints::Point::beforeStage,
                     .action = failpoints::Action::park,
                     .page = page,
                     .skip = 0,
                     .reached = kj::AutoCloseFd(dup(reached_.get())),
                     .reached2 = {},
                     .resume = kj::AutoCloseFd(dup(go_.get()))});
  }
  void awaitHeld() {
    std::uint64_t value = 0;
    ASSERT_EQ(read(reached_.get(), &value, sizeof value), ssize_t{sizeof value});
  }
  void letGo() {
    const std::uint64_t value = 1;
    ASSERT_EQ(write(go_.get(), &value, sizeof value), ssize_t{sizeof value});
  }
  std::uint64_t missing() const {
    std::uint64_t missing = 0;
    for (std::uint64_t page = 0; page < COUNT; page++)
      missing += restore_.state(page) == shm::PageState::missing ? 1 : 0;
    return missing;
  }

  const test::Image image_{COUNT * shm::SMALL_PAGE};
  const test::LocalRestore restore_{image_, shm::SMALL_PAGE};
  failpoints::Failpoints failpoints_;
  const Committer committer_{failpoints_};
  WorkerPool workers_{2};
  const kj::AutoCloseFd reached_{eventfd(0, EFD_CLOEXEC)}, go_{eventfd(0, EFD_CLOEXEC)};
};

// What was in place already has not been taken from the source.
TEST_F(Population, CountsTheBytesOfThePagesThatItPopulated) {
  for (const shm::PageIndex page : {0, 100, 101})
    ASSERT_EQ(uffd::copy(restore_.uffd(), reinterpret_cast<std::uint64_t>(restore_.page(page)),
                         image_.data() + page * shm::SMALL_PAGE, shm::SMALL_PAGE, uffd::Protect::no,
                         uffd::Waiters::wake)
                  .outcome,
              uffd::Outcome::done);
  Prefaulter prefaulter(committer_, workers_, 1);
  std::promise<void> done;
  prefaulter.start(restore_.attachment(), 1, {}, [&] { done.set_value(); });
  done.get_future().get();
  EXPECT_EQ(missing(), 0u);
  EXPECT_EQ(restore_.attachment()->counters().sourceBytes.load(), (COUNT - 3) * shm::SMALL_PAGE);
}

// The first window makes its faults dense. In the second that would be sections of 32, 64, and four of up to 128 pages.
TEST_F(Population, GoesByShortSectionsAfterARemovalThoughFaultsAreDense) {
  Prefaulter prefaulter(committer_, workers_, 1);
  const shard::AttachmentRef& restore = restore_.attachment();
  shm::count(restore->counters().faultsTaken, WINDOW);
  holdAt(WINDOW);
  std::promise<void> done;
  prefaulter.start(restore, 1, {{0, 2 * WINDOW}}, [&] { done.set_value(); });
  awaitHeld();
  const auto sections = [&] {
    shm::Histogram::Snapshot copies;
    copies.add(restore->counters().copy);
    return copies.samples();
  };
  const std::uint64_t before = sections();
  shm::count(restore->segment().counters().removes);
  letGo();
  done.get_future().get();
  EXPECT_EQ(missing(), COUNT - 2 * WINDOW);
  EXPECT_GT(sections() - before, 6u);
}

// What is missing around the latest fault is likely to be touched next.
TEST_F(Population, BringsThePagesAroundTheLatestFaultFirst) {
  Prefaulter prefaulter(committer_, workers_, 1);
  holdAt(2 * WINDOW);
  const shm::Segment& segment = restore_.attachment()->segment();
  restore_.attachment()->segment().slot(segment.firstSlot(0)).inflightPage = 2 * WINDOW + 300;
  std::promise<void> done;
  prefaulter.start(restore_.attachment(), 1, {}, [&] { done.set_value(); });
  awaitHeld();
  EXPECT_EQ(missing(), COUNT);
  letGo();
  done.get_future().get();
  EXPECT_EQ(missing(), 0u);
}

// Without a fault no task takes a window that another has.
TEST_F(Population, GoesThroughEachWindowOnce) {
  Prefaulter prefaulter(committer_, workers_, 2);
  holdAt(0);
  std::promise<void> done;
  prefaulter.start(restore_.attachment(), 1, {}, [&] { done.set_value(); });
  awaitHeld();
  test::await([&] { return restore_.state(COUNT - 1) == shm::PageState::faulted; });
  EXPECT_EQ(missing(), WINDOW);
  letGo();
  done.get_future().get();
  EXPECT_EQ(missing(), 0u);
}

// What is told of a job's end belongs to the shard, which may be about to end as well.
TEST_F(Population, IsWaitedForUntilItsEndIsTold) {
  std::optional<Prefaulter> prefaulter(std::in_place, committer_, workers_, 2u);
  std::promise<void> telling, told;
  prefaulter->start(restore_.attachment(), 1, {}, [&] {
    telling.set_value();
    told.get_future().wait();
  });
  telling.get_future().wait();
  auto ended = std::async(std::launch::async, [&] { prefaulter.reset(); });
  EXPECT_EQ(ended.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  told.set_value();
  ended.get();
}

}  // namespace
}  // namespace faultline::shard
