// A shard dies, or stops, at each place of a fault's way; its successor answers what it left.

#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

struct Death {
  const char* point;
  rpc::Action action;
  std::uint64_t pageSize;
};

// Owned together, and all: as many extents of either size.
struct Sizes {
  std::uint64_t extent, pages;
};
Sizes sizesFor(std::uint64_t pageSize) {
  return pageSize == SMALL ? Sizes{EXTENT, PAGES} : Sizes{4, 16};
}

class ShardDeath : public testing::TestWithParam<Death> {
 protected:
  void SetUp() override {
    if (GetParam().pageSize == HUGE && !hugePagesAvailable(16))
      GTEST_SKIP() << "no 16 free huge pages; echo 128 > /proc/sys/vm/nr_hugepages";
  }
};

TEST_P(ShardDeath, ItsFaultsAreAnsweredByItsSuccessor) {
  const auto [point, action, pageSize] = GetParam();
  const Sizes sizes = sizesFor(pageSize);
  Image image(sizes.pages * pageSize);
  Server server(image, {.shards = SHARDS, .lockDeadlineMs = 100, .watchdogMs = WATCHDOG_MS});
  Target target(image, server.socket(), pageSize);
  server.restore();
  const std::uint64_t page = sizes.extent + 1;
  const unsigned owner = server.ownerOf(page);
  const pid_t before = server.shardPid(owner);
  auto barrier = arm(server, shardHooks(server, owner), point, action, page);
  auto stalled = target.readLater(page);
  auto sameShard = target.readLater(page + 1);
  // Another shard's pages go on being served.
  EXPECT_TRUE(target.holdsImage(0));
  EXPECT_EQ(stalled.get(), image.at(target.offset(page)));
  EXPECT_EQ(sameShard.get(), image.at(target.offset(page + 1)));
  target.giveBack(page, 2);
  expectContent(target, {page, page + 1});
  await([&] { return server.status().getShards()[owner].getAlive(); });
  EXPECT_NE(server.shardPid(owner), before);
  EXPECT_EQ(server.status().getShards()[owner].getRestarts(), 1u);
}

// The page is given back while its dead shard's section is still being cleared away.
TEST_P(ShardDeath, ARemovalMeanwhileCountsToo) {
  const auto [point, action, pageSize] = GetParam();
  const Sizes sizes = sizesFor(pageSize);
  Image image(sizes.pages * pageSize);
  Server server(image, {.shards = SHARDS, .lockDeadlineMs = 100, .watchdogMs = WATCHDOG_MS});
  Target target(image, server.socket(), pageSize);
  server.restore();
  const std::uint64_t page = 2 * sizes.extent + 1;
  auto barrier = arm(server, shardHooks(server, server.ownerOf(page)), point, action, page);
  auto stalled = target.readLater(page);
  auto given = target.giveBackLater(page);
  given.get();
  stalled.get();
  expectContent(target, {page});
}

std::vector<Death> everyDeath(std::uint64_t pageSize, const std::vector<rpc::Action>& actions) {
  std::vector<Death> deaths;
  for (const char* point : {"beforeStage", "beforeReadLock", "beforeCopy", "afterCopy", "afterStore"})
    for (const rpc::Action action : actions) deaths.push_back({point, action, pageSize});
  return deaths;
}

std::string deathName(const testing::TestParamInfo<Death>& info) {
  return std::string(info.param.point) + actionName(info.param.action);
}

INSTANTIATE_TEST_SUITE_P(At, ShardDeath,
                         testing::ValuesIn(everyDeath(SMALL, {rpc::Action::KILL, rpc::Action::STOP,
                                                              rpc::Action::PARK})),
                         deathName);
// How a shard comes to its end makes no difference to its pages.
INSTANTIATE_TEST_SUITE_P(AtHuge, ShardDeath, testing::ValuesIn(everyDeath(HUGE, {rpc::Action::KILL})),
                         deathName);

TEST(ShardDeathElsewhere, WhileIdle) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  for (unsigned index = 0; index < SHARDS; index++) kill(server.shardPid(index), SIGKILL);
  expectContent(target, {});
}

TEST(ShardDeathElsewhere, InTheMiddleOfABackgroundPopulation) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  std::vector<rpc::Barrier::Client> barriers;
  for (unsigned index = 0; index < SHARDS; index++)
    barriers.push_back(
        arm(server, shardHooks(server, index), "afterCopy", rpc::Action::KILL, failpoints::ANY_PAGE, 10));
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.inMemory(page)) << page;
  expectContent(target, {});
  for (auto shard : server.status().getShards()) EXPECT_EQ(shard.getRestarts(), 1u);
}

class ShardDeathInPlace : public BothPageSizes {};
BOTH_PAGE_SIZES(ShardDeathInPlace);

// The shard dies between its copy and its note of the copy: the target reads the page, which is in place. A
// population meets EEXIST there. For a huge page EEXIST may also mean that there is no memory, so the page
// stays missing in the table, and the restore does not complete by itself.
TEST_P(ShardDeathInPlace, APageThatNobodyNoted) {
  Image image(imageBytes());
  Server server(image, {.shards = 2, .keepServing = false});
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  const std::uint64_t page = 1;
  const unsigned owner = server.ownerOf(page);
  auto barrier = arm(server, shardHooks(server, owner), "afterCopy", rpc::Action::KILL, page);
  EXPECT_EQ(target.readLater(page).get(), image.at(target.offset(page)));
  await([&] { return server.status().getShards()[owner].getRestarts() == 1; });
  auto complete = restore.waitCompleteRequest().send();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t other = 0; other < target.pages(); other++) {
    ASSERT_TRUE(target.inMemory(other)) << other;
    ASSERT_TRUE(target.holdsImage(other)) << other;
  }
  if (pageSize() == SMALL) {
    EXPECT_EQ(server.wait(kj::mv(complete)).getInfo().getPhase(), rpc::Phase::COMPLETE);
    return;
  }
  EXPECT_EQ(server.wait(prefault.progressRequest().send()).getMissing(), 1u);
  EXPECT_EQ(server.segment().pages().state(page), shm::PageState::missing);
  EXPECT_EQ(server.wait(restore.infoRequest().send()).getInfo().getPhase(), rpc::Phase::SERVING);
  auto detach = restore.detachRequest();
  detach.setForce(true);
  server.wait(detach.send());
  for (std::uint64_t other = 0; other < target.pages(); other++)
    EXPECT_TRUE(target.holdsImage(other)) << other;
}

// A page at which one shard after the other dies is given up after the third, with an error to the target on
// that page alone, and said so.
TEST(ShardDeathElsewhere, AtTheSamePageAgainAndAgain) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const std::uint64_t page = EXTENT + 100;
  const unsigned owner = server.ownerOf(page);
  std::future<Touch> touched;
  auto restore = server.restore();
  for (unsigned death = 0; death < 3; death++) {
    await([&] { return server.status().getShards()[owner].getAlive(); });
    auto barrier = arm(server, shardHooks(server, owner), "beforeStage", rpc::Action::PARK, page);
    if (death > 0)
      server.wait(restore.resumeRequest().send());
    else
      touched = target.touchLater(page);
    server.wait(barrier.waitHeldRequest().send());
    // Paused meanwhile, so that its successor is not asked before it is armed as well.
    server.wait(restore.pauseRequest().send());
    kill(server.shardPid(owner), SIGKILL);
    await([&] { return server.status().getShards()[owner].getRestarts() == death + 1; });
  }
  server.wait(restore.resumeRequest().send());
  EXPECT_EQ(touched.get(), Touch::sigbus);
  bool said = false;
  for (auto event : server.status().getEvents())
    said |= std::string(event.getText().cStr()).find("page " + std::to_string(page) + " is poisoned") !=
            std::string::npos;
  EXPECT_TRUE(said);
  for (std::uint64_t other = 0; other < PAGES; other++)
    ASSERT_TRUE(other == page || target.holdsImage(other)) << other;
}

}  // namespace
}  // namespace faultline::test
