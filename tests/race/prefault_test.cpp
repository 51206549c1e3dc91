// Background population against everything else.

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <random>
#include <thread>

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

class Prefault : public RaceTest {
 protected:
  static rpc::Prefault::Client start(Server& server, rpc::Restore::Client& restore,
                                     std::vector<shm::PageRange> ranges = {}) {
    auto request = restore.prefaultRequest();
    auto list = request.initRanges(static_cast<unsigned>(ranges.size()));
    for (unsigned i = 0; i < ranges.size(); i++) {
      list[i].setFirst(ranges[i].first);
      list[i].setCount(ranges[i].count);
    }
    return server.wait(request.send()).getPrefault();
  }
};
BOTH_PAGE_SIZES(Prefault);

TEST_P(Prefault, PopulatesEverything) {
  Image image(imageBytes());
  image.zero(pageSize(), pageSize());
  image.hole(pageSize() * 3, pageSize() * 2);
  Server server(image);
  Target target(image, server.socket(), pageSize(), 2);
  auto restore = server.restore();
  auto prefault = start(server, restore);
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(server.wait(prefault.progressRequest().send()).getMissing(), 0u);
  for (std::uint64_t page = 0; page < target.pages(); page++) {
    ASSERT_TRUE(target.inMemory(page)) << page;
    ASSERT_TRUE(target.holdsImage(page)) << page;
  }
  EXPECT_EQ(server.wait(restore.statsRequest().send()).getStats().getFaults(), 0u);
}

TEST_P(Prefault, OfRangesPopulatesThoseOnly) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  auto prefault = start(server, restore, {{9, 2}, {1, 3}});
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < 16; page++)
    EXPECT_EQ(target.inMemory(page), (page >= 1 && page < 4) || page == 9 || page == 10) << page;
}

TEST_P(Prefault, BringsNoRemovedPageBack) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  target.read(4);
  target.giveBack(3, 3);
  auto prefault = start(server, restore);
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 3; page < 6; page++) {
    EXPECT_FALSE(target.inMemory(page)) << page;
    EXPECT_EQ(stateOf(server, restore, page), rpc::PageState::REMOVED);
    EXPECT_TRUE(target.isAll(page, 0)) << page;
  }
  EXPECT_TRUE(target.holdsImage(6));
}

// Interleaving: a population is inside its section, before the copy, as its pages are given back.
TEST_P(Prefault, RemovedInTheMiddleOfASection) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  auto barrier = server.barrier(0, rpc::FaultPoint::BEFORE_COPY);
  auto prefault = start(server, restore, {{0, 4}});
  server.wait(barrier.waitHeldRequest().send());
  auto given = target.giveBackLater(1, 2);
  await([&] { return target.eventInFlight(); });
  server.wait(barrier.releaseRequest().send());
  given.get();
  server.wait(prefault.waitRequest().send());
  EXPECT_TRUE(target.holdsImage(0));
  EXPECT_TRUE(target.isAll(1, 0));
  EXPECT_TRUE(target.isAll(2, 0));
  EXPECT_TRUE(target.holdsImage(3));
}

// A page in the middle of a run is there already: the kernel stops before it, the rest goes on behind it. Of
// a huge page nobody can tell whether it is there or memory is short; after a while the rest goes on, too.
TEST_P(Prefault, GoesOnBehindAPageThatIsThere) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  uffdio_copy copy{};
  copy.dst = reinterpret_cast<std::uint64_t>(target.address(2));
  copy.src = reinterpret_cast<std::uint64_t>(image.data()) + target.offset(2);
  copy.len = pageSize();
  ASSERT_EQ(ioctl(target.uffd(), UFFDIO_COPY, &copy), 0);
  auto prefault = start(server, restore, {{0, 4}});
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < 4; page++) {
    const bool told = page != 2 || pageSize() == SMALL;
    awaitState(server, restore, page, told ? rpc::PageState::FAULTED : rpc::PageState::MISSING);
    EXPECT_TRUE(target.holdsImage(page)) << page;
  }
}

TEST_P(Prefault, CancelledHalfWayStopsAndServesOn) {
  Image image(imageBytes());
  Server server(image, {.shards = 1, .workers = 1});
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  const std::uint64_t extent = pageSize() == SMALL ? 512 : 4;
  auto barrier = server.barrier(extent, rpc::FaultPoint::BEFORE_COPY);
  auto prefault = start(server, restore);
  server.wait(barrier.waitHeldRequest().send());
  auto cancelled = prefault.cancelRequest().send();
  // The cancellation is ordered before the release: both go through the same connection.
  server.wait(restore.infoRequest().send());
  server.wait(barrier.releaseRequest().send());
  server.wait(kj::mv(cancelled));
  const auto missing = server.wait(prefault.progressRequest().send()).getMissing();
  EXPECT_GT(missing, 0u);
  EXPECT_TRUE(target.holdsImage(target.pages() - 1));
}

TEST_P(Prefault, WhileThreadsFaultAndGiveBack) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  auto prefault = start(server, restore);
  std::atomic<std::uint64_t> wrong{0};
  const std::uint64_t half = target.pages() / 2;
  std::thread reader([&] {
    std::mt19937_64 random(1);
    for (unsigned i = 0; i < 300; i++)
      if (!target.holdsImage(random() % half)) wrong++;
  });
  for (std::uint64_t page = half; page < target.pages(); page += 2) target.giveBack(page);
  reader.join();
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(wrong, 0u);
  for (std::uint64_t page = half; page < target.pages(); page++)
    ASSERT_TRUE((page - half) % 2 == 0 ? target.isAll(page, 0) : target.holdsImage(page)) << page;
}

}  // namespace
}  // namespace faultline::test
