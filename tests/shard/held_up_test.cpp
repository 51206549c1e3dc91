// A restore whose gate stays closed, or whose target has a removal under way that does not end: its own pages wait, those of
// others do not.

#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "process/clock.h"
#include "shard/fault_loop.h"
#include "shard/prefaulter.h"
#include "tests/shard/local_restore.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"

namespace faultline::shard {
namespace {

using shm::PageState;
using test::await;
using test::LocalRestore;

struct NothingIsLost final : FaultLoopEvents {
  void pagePoisoned(const Attachment&, shm::PageIndex page, std::string reason) override {
    ADD_FAILURE() << page << ": " << reason;
  }
  void pageLost(const Attachment& restore, shm::PageIndex page, std::string reason) override {
    pagePoisoned(restore, page, std::move(reason));
  }
};

class HeldUp : public test::BothPageSizes {
 protected:
  ~HeldUp() noexcept override {}  // KJ's may throw

  std::future<unsigned char> touch(const LocalRestore& restore, shm::PageIndex page) {
    return std::async(std::launch::async, [&restore, page] { return *restore.page(page); });
  }
  shm::RwLock& lock() { return held_.attachment()->segment().lock(); }
  void expectAll(const LocalRestore& restore, PageState state) {
    for (std::uint64_t page = 0; page < COUNT; page++) EXPECT_EQ(restore.state(page), state) << page;
  }
  // The other restore is complete while the held one, which is asked first, has nothing yet. `waits`: that is, too.
  void populateBoth(Prefaulter& prefaulter, std::promise<void>& waits) {
    std::promise<void> quick;
    prefaulter.start(held_.attachment(), 1, {}, [&] { waits.set_value(); });
    prefaulter.start(other_.attachment(), 1, {}, [&] { quick.set_value(); });
    quick.get_future().get();
    expectAll(other_, PageState::faulted);
    expectAll(held_, PageState::missing);
  }
  static constexpr std::uint64_t COUNT = 8;

  test::Image image_{COUNT * pageSize()};
  LocalRestore held_{image_, pageSize()};
  LocalRestore other_{image_, pageSize(), nullptr, 2};
  failpoints::Failpoints failpoints_;
  const Committer committer_{failpoints_};
  WorkerPool workers_{1};
  NothingIsLost events_;
};
INSTANTIATE_TEST_SUITE_P(Pages, HeldUp, testing::Values(test::SMALL, test::HUGE), test::pageSizeName);

TEST_P(HeldUp, ByItsGateAFaultHoldsUpNoOther) {
  FaultLoop loop(committer_, workers_, events_, {});
  loop.attach(held_.attachment());
  loop.attach(other_.attachment());
  lock().close();
  auto waits = touch(held_, 0);
  loop.serve(1, process::nowNs(), held_.takeFaults(1));
  for (std::uint64_t page = 0; page < COUNT; page++) {
    auto read = touch(other_, page);
    loop.serve(2, process::nowNs(), other_.takeFaults(1));
    EXPECT_EQ(read.get(), image_.at(page * pageSize())) << page;
  }
  EXPECT_EQ(held_.state(0), PageState::missing);
  lock().open();
  EXPECT_EQ(waits.get(), image_.at(0));
}

// However many of them, where the workers help.
TEST_P(HeldUp, ByItsGateALargeBatchHoldsUpNoOther) {
  FaultLoop loop(committer_, workers_, events_, {.shareFrom = 2});
  loop.attach(held_.attachment());
  loop.attach(other_.attachment());
  lock().close();
  std::vector<std::future<unsigned char>> waits;
  for (std::uint64_t page = 0; page < COUNT; page++) waits.push_back(touch(held_, page));
  loop.serve(1, process::nowNs(), held_.takeFaults(COUNT));
  auto read = touch(other_, 3);
  loop.serve(2, process::nowNs(), other_.takeFaults(1));
  EXPECT_EQ(read.get(), image_.at(3 * pageSize()));
  expectAll(held_, PageState::missing);
  lock().open();
  for (std::uint64_t page = 0; page < COUNT; page++)
    EXPECT_EQ(waits[page].get(), image_.at(page * pageSize()));
}

TEST_P(HeldUp, ByItsGateAPopulationHoldsUpNoOther) {
  Prefaulter prefaulter(committer_, workers_, 2);
  lock().close();
  std::promise<void> waits;
  populateBoth(prefaulter, waits);
  lock().open();
  waits.get_future().get();
  expectAll(held_, PageState::faulted);
}

// The kernel refuses every copy until the removal's caller runs on, which a target that is stopped does not.
TEST_P(HeldUp, ByARemovalAPopulationHoldsUpNoOther) {
  Prefaulter prefaulter(committer_, workers_, 2);
  std::thread giving([&] { held_.giveBack(0, 1); });
  await([&] { return uffd::eventInFlight(held_.uffd()); });
  std::promise<void> waits;
  populateBoth(prefaulter, waits);
  held_.readAndPublish();
  giving.join();
  waits.get_future().get();
  EXPECT_EQ(held_.state(0), PageState::removed);
  for (std::uint64_t page = 1; page < COUNT; page++) EXPECT_EQ(held_.state(page), PageState::faulted) << page;
}

TEST_P(HeldUp, APopulationIsCancelledAllTheSame) {
  Prefaulter prefaulter(committer_, workers_, 2);
  lock().close();
  std::promise<void> done;
  prefaulter.start(held_.attachment(), 1, {}, [&] { done.set_value(); });
  prefaulter.cancel(1, 1);
  done.get_future().get();
  expectAll(held_, PageState::missing);
}

}  // namespace
}  // namespace faultline::shard
