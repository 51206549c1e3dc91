// A source that fails or does not answer: the shard's answer to its pages; nothing else waits.

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <future>

#include "process/clock.h"
#include "shard/fault_loop.h"
#include "shard/prefaulter.h"
#include "tests/shard/faulty_source.h"
#include "tests/shard/local_restore.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"
#include "threads/mutex.h"

namespace faultline::shard {
namespace {

using shm::PageState;
using test::await;
using test::FaultySource;
using test::LocalRestore;

struct LostPages final : FaultLoopEvents {
  void pagePoisoned(const Attachment&, shm::PageIndex page, std::string reason) override {
    const threads::Lock lock(mutex);
    pages.push_back(page);
    last = std::move(reason);
    count++;
  }
  void pageLost(const Attachment& restore, shm::PageIndex page, std::string reason) override {
    pagePoisoned(restore, page, std::move(reason));
  }
  threads::Mutex mutex;
  std::vector<shm::PageIndex> pages GUARDED_BY(mutex);
  std::string last GUARDED_BY(mutex);
  std::atomic<unsigned> count{0};
};

class SlowSource : public test::BothPageSizes {
 protected:
  ~SlowSource() noexcept override {}  // KJ's may throw

  // A fault on `page` of `restore`, served by loop_.
  std::future<unsigned char> fault(const LocalRestore& restore, shm::PageIndex page) {
    auto read = std::async(std::launch::async, [&restore, page] { return *restore.page(page); });
    loop_.serve(restore.attachment()->id(), process::nowNs(), restore.takeFaults(1));
    return read;
  }
  static constexpr std::uint64_t COUNT = 8;

  test::Image image_{COUNT * pageSize()};
  const std::shared_ptr<FaultySource> source_ = std::make_shared<FaultySource>(image_);
  LocalRestore restore_{image_, pageSize(), source_};
  failpoints::Failpoints failpoints_;
  const Committer committer_{failpoints_};
  WorkerPool workers_{1};
  LostPages lost_;
  FaultLoop loop_{committer_, workers_, lost_, {}};
};
INSTANTIATE_TEST_SUITE_P(Pages, SlowSource, testing::Values(test::SMALL, test::HUGE), test::pageSizeName);

TEST_P(SlowSource, ThatStallsDelaysItsOwnPageAlone) {
  LocalRestore other(image_, pageSize(), nullptr, 2);
  loop_.attach(restore_.attachment());
  loop_.attach(other.attachment());
  source_->stall(0);
  auto slow = fault(restore_, 0);
  await([&] { return source_->reads() == 1; });
  EXPECT_EQ(fault(restore_, 1).get(), image_.at(pageSize())) << "the same source";
  EXPECT_EQ(fault(other, 0).get(), image_.at(0)) << "another's";
  std::promise<void> pinged;
  loop_.ping([&] { pinged.set_value(); });
  pinged.get_future().get();
  EXPECT_EQ(restore_.state(0), PageState::missing);
  source_->goOn();
  EXPECT_EQ(slow.get(), image_.at(0));
}

// However many of its reads hang.
TEST_P(SlowSource, ThatStallsTakesNoPlaceOfAnother) {
  loop_.attach(restore_.attachment());
  const auto fine = std::make_shared<FaultySource>(image_);
  LocalRestore other(image_, pageSize(), fine, 2);
  loop_.attach(other.attachment());
  source_->stall(0);
  auto slow = fault(restore_, 0);
  for (std::uint64_t page = 0; page < COUNT; page++)
    EXPECT_EQ(fault(other, page).get(), image_.at(page * pageSize())) << page;
  source_->goOn();
  EXPECT_EQ(slow.get(), image_.at(0));
}

TEST_P(SlowSource, DetachingDoesNotWaitForIt) {
  loop_.attach(restore_.attachment());
  source_->stall(0);
  auto slow = fault(restore_, 0);
  await([&] { return source_->reads() == 1; });
  std::promise<void> detached;
  loop_.detach(restore_.attachment()->id(), [&] { detached.set_value(); });
  detached.get_future().get();
  restore_.end();
  EXPECT_EQ(slow.get(), 0);
  source_->goOn();
}

TEST_P(SlowSource, ErrorsThatPassAreNotNoticed) {
  loop_.attach(restore_.attachment());
  source_->fail(EIO, 2);
  EXPECT_EQ(fault(restore_, 3).get(), image_.at(3 * pageSize()));
  EXPECT_EQ(restore_.attachment()->counters().sourceErrors.load(), 2u);
  EXPECT_EQ(lost_.count, 0u);
}

// The kernel has no page for the buffer that a read was given, and says that the buffer's address is bad.
TEST_P(SlowSource, ReadsThatThisHostHasNoMemoryForAreMadeAgain) {
  loop_.attach(restore_.attachment());
  std::uint64_t page = 3;
  for (const int error : {ENOMEM, EFAULT}) {
    source_->fail(error, 2);
    EXPECT_EQ(fault(restore_, page).get(), image_.at(page * pageSize())) << strerror(error);
    page++;
  }
  EXPECT_EQ(lost_.count, 0u);
}

TEST_P(SlowSource, ErrorsMayLastAsLongAsTheOperatorsPatience) {
  loop_.attach(restore_.attachment());
  source_->fail(ETIMEDOUT, 6);
  EXPECT_EQ(fault(restore_, 3).get(), image_.at(3 * pageSize()));
  EXPECT_EQ(restore_.attachment()->counters().sourceErrors.load(), 6u);
  EXPECT_EQ(lost_.count, 0u);
}

TEST_P(SlowSource, ErrorsThatLastLongerLoseThePageAlone) {
  constexpr std::uint64_t PATIENCE = 50'000'000;
  FaultLoop impatient(committer_, workers_, lost_, {.sourcePatience = PATIENCE});
  impatient.attach(restore_.attachment());
  source_->fail(EIO, ~0u);
  const std::uint64_t before = process::nowNs();
  impatient.serve(restore_.attachment()->id(), before, {3});
  await([&] { return lost_.count == 1; });
  EXPECT_GE(process::nowNs() - before, PATIENCE);
  EXPECT_GE(source_->reads(), 3u);
  const threads::Lock lock(lost_.mutex);
  EXPECT_EQ(lost_.pages, std::vector<shm::PageIndex>{3});
  EXPECT_NE(lost_.last.find(strerror(EIO)), std::string::npos) << lost_.last;
  EXPECT_NE(lost_.last.find("--source-patience"), std::string::npos) << lost_.last;
}

// Wrong bytes do not become right ones.
TEST_P(SlowSource, AnErrorThatDoesNotPassLosesThePageAtOnce) {
  loop_.attach(restore_.attachment());
  source_->fail(EBADMSG, 1);
  loop_.serve(restore_.attachment()->id(), process::nowNs(), {3});
  await([&] { return lost_.count == 1; });
  EXPECT_EQ(source_->reads(), 1u);
}

TEST_P(SlowSource, ItsEndLosesThePageAlone) {
  loop_.attach(restore_.attachment());
  source_->truncate(4 * pageSize());
  constexpr shm::PageIndex page = 4;
  loop_.serve(restore_.attachment()->id(), process::nowNs(), {page});
  await([&] { return lost_.count == 1; });
  const threads::Lock lock(lost_.mutex);
  EXPECT_EQ(lost_.pages, std::vector<shm::PageIndex>{page});
  EXPECT_NE(lost_.last.find("truncated"), std::string::npos) << lost_.last;
}

// --- population ---

TEST_P(SlowSource, PopulatingAStalledOneHoldsUpNoOther) {
  const auto fine = std::make_shared<FaultySource>(image_);
  LocalRestore other(image_, pageSize(), fine, 2);
  Prefaulter prefaulter(committer_, workers_, 2);
  source_->stall(0);
  std::promise<void> slow, quick;
  prefaulter.start(restore_.attachment(), 1, {}, [&] { slow.set_value(); });
  await([&] { return source_->reads() >= 1; });
  prefaulter.start(other.attachment(), 1, {}, [&] { quick.set_value(); });
  quick.get_future().get();
  for (std::uint64_t page = 0; page < COUNT; page++) EXPECT_EQ(other.state(page), PageState::faulted) << page;
  EXPECT_EQ(restore_.state(0), PageState::missing);
  source_->goOn();
  slow.get_future().get();
  for (std::uint64_t page = 0; page < COUNT; page++)
    EXPECT_EQ(restore_.state(page), PageState::faulted) << page;
}

TEST_P(SlowSource, APopulationThatIsCancelledDoesNotWaitForIt) {
  Prefaulter prefaulter(committer_, workers_, 1);
  source_->stall(0);
  std::promise<void> done;
  prefaulter.start(restore_.attachment(), 1, {}, [&] { done.set_value(); });
  await([&] { return source_->reads() == 1; });
  prefaulter.cancel(restore_.attachment()->id(), 1);
  done.get_future().get();
  EXPECT_EQ(restore_.state(0), PageState::missing);
  source_->goOn();
}

TEST_P(SlowSource, WhatAPopulationCannotReadIsLeftToTheFaults) {
  Prefaulter prefaulter(committer_, workers_, 1);
  loop_.attach(restore_.attachment());
  source_->fail(EIO, 1);
  std::promise<void> done;
  prefaulter.start(restore_.attachment(), 1, {{3, 1}}, [&] { done.set_value(); });
  done.get_future().get();
  EXPECT_EQ(restore_.attachment()->counters().sourceErrors.load(), 1u);
  EXPECT_EQ(restore_.state(3), PageState::missing);
  EXPECT_EQ(fault(restore_, 3).get(), image_.at(3 * pageSize()));
}

}  // namespace
}  // namespace faultline::shard
