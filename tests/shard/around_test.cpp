// A fault that brings its neighbourhood: only what is missing comes, and only its own bytes.

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <future>
#include <string>

#include "process/clock.h"
#include "shard/fault_loop.h"
#include "tests/shard/faulty_source.h"
#include "tests/shard/local_restore.h"
#include "tests/support/server.h"

namespace faultline::shard {
namespace {

using shm::PageIndex;
using shm::PageState;
using test::await;
using test::FaultySource;
using test::LocalRestore;

constexpr std::uint64_t PAGE = shm::SMALL_PAGE, COUNT = Neighbourhood::WINDOW;

struct LostPages final : FaultLoopEvents {
  void pagePoisoned(const Attachment&, PageIndex page, std::string) override { last = page; }
  void pageLost(const Attachment&, PageIndex page, std::string) override { last = page; }
  std::atomic<PageIndex> last{~0ull};
};

// Every fault brings all of its window.
class Around : public testing::Test {
 protected:
  Around() { loop_.attach(restore_.attachment()); }
  ~Around() noexcept override {}  // KJ's may throw

  std::future<unsigned char> touch(PageIndex page) {
    return std::async(std::launch::async, [this, page] { return *restore_.page(page); });
  }
  void serve(const std::vector<PageIndex>& faults) {
    loop_.serve(restore_.attachment()->id(), process::nowNs(), faults);
  }
  // Once it has done all that it was told before.
  void awaitLoop() {
    std::promise<void> done;
    loop_.ping([&] { done.set_value(); });
    done.get_future().get();
  }
  void remove(PageIndex first, std::uint64_t count) {
    std::thread giver([&] { restore_.giveBack(first, count); });
    await([&] { return uffd::eventInFlight(restore_.uffd()); });
    restore_.readAndPublish();
    giver.join();
  }
  static std::uint64_t samples(const shm::Histogram& histogram) {
    shm::Histogram::Snapshot sum;
    sum.add(histogram);
    return sum.samples();
  }
  shm::ShardCounters& counters() { return restore_.attachment()->counters(); }
  std::uint64_t copied() { return restore_.attachment()->counters().copied.load(); }
  std::uint64_t around() { return restore_.attachment()->counters().around.load(); }
  void expectBytes(PageIndex page) {
    EXPECT_EQ(std::memcmp(const_cast<unsigned char*>(restore_.page(page)), image_.data() + page * PAGE, PAGE),
              0)
        << page;
  }

  test::Image image_{COUNT * PAGE};
  const std::shared_ptr<FaultySource> source_ = [this] {
    image_.zero(9 * PAGE, PAGE);
    auto source = std::make_shared<FaultySource>(image_);
    source->warm(true);
    return source;
  }();
  LocalRestore restore_{image_, PAGE, source_, 1, 65536};
  failpoints::Failpoints failpoints_;
  const Committer committer_{failpoints_};
  WorkerPool workers_{1};
  LostPages lost_;
  FaultLoop loop_{committer_, workers_, lost_, {}};
};

TEST_F(Around, AFaultBringsAllOfIt) {
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  for (PageIndex page = 0; page < COUNT; page++) EXPECT_EQ(restore_.state(page), PageState::faulted) << page;
  for (PageIndex page = 0; page < COUNT; page++) expectBytes(page);
  EXPECT_EQ(copied(), COUNT - 1);
  EXPECT_EQ(restore_.attachment()->counters().zeroed.load(), 1u) << "page 9";
  EXPECT_EQ(around(), COUNT - 1);
}

// The threads that wait for pages which another's fault has brought are woken with it.
TEST_F(Around, OneBatchOfFaultsInItIsAnsweredAtOnce) {
  std::vector<std::future<unsigned char>> reads;
  for (const PageIndex page : {3, 5, 11}) reads.push_back(touch(page));
  serve(restore_.takeFaults(3));
  EXPECT_EQ(reads[0].get(), image_.at(3 * PAGE));
  EXPECT_EQ(reads[1].get(), image_.at(5 * PAGE));
  EXPECT_EQ(reads[2].get(), image_.at(11 * PAGE));
  EXPECT_EQ(copied(), COUNT - 1) << "each page once";
}

TEST_F(Around, RemovedPagesStayOut) {
  remove(6, 2);
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  for (PageIndex page = 0; page < COUNT; page++)
    EXPECT_EQ(restore_.state(page), page == 6 || page == 7 ? PageState::removed : PageState::faulted) << page;
  auto zero = touch(6);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(zero.get(), 0);
  EXPECT_EQ(restore_.state(7), PageState::removed);
}

// Pages 5 to 8, the zero of 9, 10 to 15, 0 to 4.
TEST_F(Around, IsAFewSectionsWhereNothingIsRemoved) {
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  EXPECT_EQ(samples(counters().copy), 4u);
}

// A removal waits for the section that it meets.
TEST_F(Around, IsSectionsOfAtMostFourPagesAfterARemoval) {
  remove(15, 1);
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  EXPECT_EQ(samples(counters().copy), 6u) << "5 to 8, 9, 10 to 13, 14, 0 to 3, 4";
  for (PageIndex page = 0; page < COUNT; page++)
    EXPECT_EQ(restore_.state(page), page == 15 ? PageState::removed : PageState::faulted) << page;
}

// A wake alone would have it fault for ever where its state does not change.
TEST_F(Around, ARemovedPageInABatchWithANeighbourIsAnsweredWithZeros) {
  remove(6, 1);
  auto read = touch(5), zero = touch(6);
  restore_.takeFaults(2);
  serve({5, 6});
  awaitLoop();
  EXPECT_EQ(restore_.state(6), PageState::faulted);
  if (restore_.state(6) != PageState::faulted) serve(restore_.takeFaults(1));
  EXPECT_EQ(zero.get(), 0);
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
}

// The thread that waits for the gate serves all restores.
TEST_F(Around, AGateThatStaysClosedIsWaitedForOnce) {
  auto read = touch(5);
  const auto faults = restore_.takeFaults(1);
  restore_.attachment()->segment().lock().close();
  serve(faults);
  awaitLoop();
  EXPECT_EQ(samples(counters().gateWait), 1u);
  restore_.attachment()->segment().lock().open();
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
}

// A shard that died between copy and store has left it so.
TEST_F(Around, CountsThePagesThatItPopulated) {
  ASSERT_EQ(uffd::copy(restore_.uffd(), reinterpret_cast<std::uint64_t>(restore_.page(7)),
                       image_.data() + 7 * PAGE, PAGE, uffd::Protect::no, uffd::Waiters::wake)
                .outcome,
            uffd::Outcome::done);
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  EXPECT_EQ(restore_.state(7), PageState::faulted);
  EXPECT_EQ(around(), COUNT - 2);
  EXPECT_EQ(counters().sourceBytes.load(), (COUNT - 2) * PAGE) << "neither 7 nor the zero page";
}

// The kernel refuses all of it until the removal has been read. What was to come is decided anew then.
TEST_F(Around, ARemovalUnderWayIsWaitedFor) {
  auto read = touch(5);
  const auto faults = restore_.takeFaults(1);
  std::thread giver([&] { restore_.giveBack(6, 2); });
  await([&] { return uffd::eventInFlight(restore_.uffd()); });
  serve(faults);
  await([&] { return restore_.attachment()->counters().refused.load() > 1; });
  EXPECT_EQ(copied(), 0u);
  restore_.readAndPublish();
  giver.join();
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  await([&] { return restore_.state(0) == PageState::faulted; });
  for (const PageIndex page : {6, 7}) EXPECT_EQ(restore_.state(page), PageState::removed) << page;
}

TEST_F(Around, WhatIsRegisteredNoMoreCostsTheOthersNothing) {
  ASSERT_EQ(uffd::unregister(restore_.uffd(), reinterpret_cast<std::uint64_t>(restore_.page(8)), PAGE), 0);
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  EXPECT_EQ(restore_.state(8), PageState::missing) << "no fault of its own has shown that it is gone";
}

TEST_F(Around, APageThatCannotBeReadIsLostAlone) {
  source_->lose(8 * PAGE);
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  EXPECT_EQ(lost_.last, ~0ull);
  EXPECT_EQ(restore_.state(8), PageState::missing);
  serve({8});
  await([&] { return lost_.last == 8; });
}

TEST_F(Around, ColdItIsOneRead) {
  source_->warm(false);
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  for (PageIndex page = 0; page < COUNT; page++) expectBytes(page);
  EXPECT_EQ(source_->reads(), 1u);
}

TEST_F(Around, AStalledPageHoldsUpOnlyTheFaultThatAskedForIt) {
  source_->warm(false);
  source_->stall(0);
  auto slow = touch(0);
  serve(restore_.takeFaults(1));
  await([&] { return source_->reads() == 1; });
  auto read = touch(5);
  serve(restore_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(5 * PAGE));
  source_->goOn();
  EXPECT_EQ(slow.get(), image_.at(0));
}

}  // namespace
}  // namespace faultline::shard
