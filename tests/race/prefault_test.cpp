// Background population against everything else.

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <random>
#include <thread>

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

class Prefault : public OneTarget {
 protected:
  rpc::Prefault::Client start(std::vector<shm::PageRange> ranges = {}) {
    auto request = restore_.prefaultRequest();
    auto list = request.initRanges(static_cast<unsigned>(ranges.size()));
    for (unsigned i = 0; i < ranges.size(); i++) {
      list[i].setFirst(ranges[i].first);
      list[i].setCount(ranges[i].count);
    }
    return server_->wait(request.send()).getPrefault();
  }
  void finish(rpc::Prefault::Client& prefault) { server_->wait(prefault.waitRequest().send()); }
  std::uint64_t missing(rpc::Prefault::Client& prefault) {
    return server_->wait(prefault.progressRequest().send()).getMissing();
  }
};
BOTH_PAGE_SIZES(Prefault);

// No interleaving: no thread touches the memory meanwhile.
TEST_P(Prefault, PopulatesEverything) {
  image_.zero(pageSize(), pageSize());
  image_.hole(pageSize() * 3, pageSize() * 2);
  serve({}, 2);
  auto prefault = start();
  finish(prefault);
  EXPECT_EQ(missing(prefault), 0u);
  for (std::uint64_t page = 0; page < target_->pages(); page++) {
    ASSERT_TRUE(target_->inMemory(page)) << page;
    ASSERT_TRUE(target_->holdsImage(page)) << page;
  }
  EXPECT_EQ(server_->wait(restore_.statsRequest().send()).getStats().getFaults(), 0u);
}

// No interleaving: some pages are populated, and no others.
TEST_P(Prefault, OfRangesPopulatesThoseOnly) {
  serve();
  auto prefault = start({{9, 2}, {1, 3}});
  finish(prefault);
  for (std::uint64_t page = 0; page < 16; page++)
    EXPECT_EQ(target_->inMemory(page), (page >= 1 && page < 4) || page == 9 || page == 10) << page;
}

// Interleaving: pages are given back, one of them populated and two missing, before the population begins.
TEST_P(Prefault, BringsNoRemovedPageBack) {
  serve();
  target_->read(4);
  target_->giveBack(3, 3);
  auto prefault = start();
  finish(prefault);
  for (std::uint64_t page = 3; page < 6; page++) {
    EXPECT_FALSE(target_->inMemory(page)) << page;
    EXPECT_EQ(stateOf(page), rpc::PageState::REMOVED);
    EXPECT_TRUE(target_->isAll(page, 0)) << page;
  }
  EXPECT_TRUE(target_->holdsImage(6));
}

// Interleaving: a population is inside its section, before the copy, as its pages are given back.
TEST_P(Prefault, RemovedInTheMiddleOfASection) {
  serve();
  auto barrier = server_->barrier(0, rpc::FaultPoint::BEFORE_COPY);
  auto prefault = start({{0, 4}});
  server_->wait(barrier.waitHeldRequest().send());
  auto given = target_->giveBackLater(1, 2);
  await([&] { return target_->eventInFlight(); });
  server_->wait(barrier.releaseRequest().send());
  given.get();
  finish(prefault);
  EXPECT_TRUE(target_->holdsImage(0));
  EXPECT_TRUE(target_->isAll(1, 0));
  EXPECT_TRUE(target_->isAll(2, 0));
  EXPECT_TRUE(target_->holdsImage(3));
}

// Interleaving: a page in the middle of a run has come by another way, and is not noted: the kernel stops
// before it, the rest goes on behind it. A huge page may be there, or memory be short: EEXIST does not tell.
// After a while the rest goes on, too.
TEST_P(Prefault, GoesOnBehindAPageThatIsThere) {
  serve();
  uffdio_copy copy{};
  copy.dst = reinterpret_cast<std::uint64_t>(target_->address(2));
  copy.src = reinterpret_cast<std::uint64_t>(image_.data()) + target_->offset(2);
  copy.len = pageSize();
  ASSERT_EQ(ioctl(target_->uffd(), UFFDIO_COPY, &copy), 0);
  auto prefault = start({{0, 4}});
  finish(prefault);
  for (std::uint64_t page = 0; page < 4; page++) {
    const bool told = page != 2 || pageSize() == SMALL;
    awaitState(page, told ? rpc::PageState::FAULTED : rpc::PageState::MISSING);
    EXPECT_TRUE(target_->holdsImage(page)) << page;
  }
}

// Interleaving: the population is inside a section as it is cancelled. The section is the last one.
TEST_P(Prefault, CancelledHalfWayStopsAndServesOn) {
  serve({.shards = 1, .workers = 1});
  const std::uint64_t extent = pageSize() == SMALL ? 512 : 4, section = pageSize() == SMALL ? 4 : 1;
  const std::uint64_t end = extent + section, last = target_->pages() - 1;
  auto barrier = server_->barrier(extent, rpc::FaultPoint::BEFORE_COPY);
  auto prefault = start();
  server_->wait(barrier.waitHeldRequest().send());
  auto cancelled = prefault.cancelRequest().send();
  // The cancellation is ordered before the release: both go through the same connection.
  server_->wait(restore_.infoRequest().send());
  server_->wait(barrier.releaseRequest().send());
  server_->wait(kj::mv(cancelled));
  EXPECT_EQ(missing(prefault), target_->pages() - end);
  EXPECT_FALSE(target_->inMemory(last));
  EXPECT_TRUE(target_->holdsImage(last));
  // The only worker does one job after the other: a cancelled job that went on would be done before this one.
  auto another = start({{last - 1, 1}});
  finish(another);
  EXPECT_EQ(missing(prefault), target_->pages() - end - 2);
  for (std::uint64_t page = end; page < last - 1; page++) ASSERT_FALSE(target_->inMemory(page)) << page;
}

// Interleaving: any, of a population with faults on its pages and with their removal, in threads of their
// own.
TEST_P(Prefault, WhileThreadsFaultAndGiveBack) {
  serve();
  auto prefault = start();
  std::atomic<std::uint64_t> wrong{0};
  const std::uint64_t half = target_->pages() / 2;
  std::thread reader([&] {
    std::mt19937_64 random(1);
    for (unsigned i = 0; i < 300; i++)
      if (!target_->holdsImage(random() % half)) wrong++;
  });
  for (std::uint64_t page = half; page < target_->pages(); page += 2) target_->giveBack(page);
  reader.join();
  finish(prefault);
  EXPECT_EQ(wrong, 0u);
  for (std::uint64_t page = half; page < target_->pages(); page++)
    ASSERT_TRUE((page - half) % 2 == 0 ? target_->isAll(page, 0) : target_->holdsImage(page)) << page;
}

}  // namespace
}  // namespace faultline::test
