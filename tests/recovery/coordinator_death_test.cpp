// The coordinator dies, or stops, at each place of its way; its successor adopts and nothing is lost.

#include <sys/eventfd.h>

#include "client/sigbus.h"
#include "tests/recovery/recovery_test.h"
#include "tests/support/raw_vmm.h"

namespace faultline::test {
namespace {

struct Place {
  const char* point;
  unsigned skip;  // times to pass first
};

struct Death {
  Place place;
  rpc::Action action;
};

class CoordinatorDeath : public testing::TestWithParam<Death> {};

// Pages around two borders of extents, so of three shards, never touched before: a lost REMOVE would show
// there.
constexpr std::uint64_t FIRST = EXTENT - 4;
constexpr std::uint64_t COUNT = EXTENT + 8;

// A range is given back and other threads fault while the coordinator comes by the place. Whatever it had
// done by then: the madvise returns, the faults are answered, given-back pages are zeros, all others the
// image.
TEST_P(CoordinatorDeath, LosesNoRemovalAndNoFault) {
  const auto [place, action] = GetParam();
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .watchdogMs = WATCHDOG_MS});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  EXPECT_TRUE(target.holdsImage(FIRST + 1));  // a page of the range is populated
  server.wait(restore.pauseRequest().send());
  auto given = target.giveBackLater(FIRST, COUNT);
  await([&] { return target.eventInFlight(); });
  auto low = target.readLater(0);
  auto high = target.readLater(PAGES - 1);
  await([&] { return target.queued().pending == 2; });
  auto barrier = arm(server, coordinatorHooks(server), place.point, action, failpoints::ANY_PAGE, place.skip);
  auto resumed = restore.resumeRequest().send();
  EXPECT_THROW(server.wait(kj::mv(resumed).then([&](auto&&) { return restore.waitEndedRequest().send(); })),
               kj::Exception);
  server.reconnect();
  given.get();
  EXPECT_EQ(low.get(), image.at(target.offset(0)));
  EXPECT_EQ(high.get(), image.at(target.offset(PAGES - 1)));
  expectContent(target, pagesOf(FIRST, COUNT));
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  EXPECT_EQ(server.wait(server.restore().statsRequest().send()).getStats().getAdoptions(), 1u);
}

std::vector<Death> everyDeath() {
  const Place places[] = {{"gateClosed", 0}, {"beforeRead", 0},      {"afterRead", 0},
                          {"midMark", 0},    {"midMark", COUNT / 2}, {"midMark", COUNT - 1},
                          {"beforeOpen", 0}, {"beforeHandout", 0}};
  std::vector<Death> deaths;
  for (const Place& place : places)
    for (const rpc::Action action : {rpc::Action::KILL, rpc::Action::STOP, rpc::Action::PARK})
      deaths.push_back({place, action});
  return deaths;
}

std::string deathName(const testing::TestParamInfo<Death>& info) {
  std::string name = info.param.place.point;
  if (info.param.place.skip != 0) name += std::to_string(info.param.place.skip);
  return name + actionName(info.param.action);
}

INSTANTIATE_TEST_SUITE_P(At, CoordinatorDeath, testing::ValuesIn(everyDeath()), deathName);

class HandshakeDeath : public testing::TestWithParam<Death> {};

// The coordinator dies in the middle of a handshake. The target has sent its one message and will never send
// another.
TEST_P(HandshakeDeath, TheTargetIsServedAllTheSame) {
  const auto [place, action] = GetParam();
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .watchdogMs = WATCHDOG_MS});
  auto barrier = arm(server, coordinatorHooks(server), place.point, action);
  Target target(image, server.socket(), SMALL);
  auto read = target.readLater(7);
  EXPECT_EQ(read.get(), image.at(target.offset(7)));
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  expectContent(target, {});
  // The target is served once, not twice.
  EXPECT_EQ(server.status().getRestores().size(), 1u);
}

std::vector<Death> everyHandshakeDeath() {
  std::vector<Death> deaths;
  for (const char* point : {"handshakeAccepted", "handshakeRead", "restoreStored"})
    for (const rpc::Action action : {rpc::Action::KILL, rpc::Action::STOP, rpc::Action::PARK})
      deaths.push_back({{point, 0}, action});
  return deaths;
}

INSTANTIATE_TEST_SUITE_P(At, HandshakeDeath, testing::ValuesIn(everyHandshakeDeath()), deathName);

class RefusalDeath : public testing::TestWithParam<Death> {};

// The coordinator dies before it refuses a target, or as it has; its successor refuses it as well.
TEST_P(RefusalDeath, TheTargetGetsAnErrorAllTheSame) {
  const auto [place, action] = GetParam();
  target::installSigbusHandler();
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .watchdogMs = WATCHDOG_MS});
  auto barrier = arm(server, coordinatorHooks(server), place.point, action);
  RawVmm vmm({PAGES * SMALL});
  vmm.connect(server.socket());
  vmm.send("[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":100,\"page_size\":4096}]", {vmm.uffd()});
  vmm.awaitHangUp();
  for (std::uint64_t page = 0; page < PAGES; page++) {
    auto touch = [&] { (void)*vmm.at(0, page * SMALL); };
    EXPECT_TRUE(target::guarded(touch).has_value()) << page;
  }
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  EXPECT_EQ(server.status().getRestores().size(), 0u);
}

std::vector<Death> everyRefusalDeath() {
  std::vector<Death> deaths;
  for (const char* point : {"handshakeAccepted", "handshakeRead", "targetRefused"})
    for (const rpc::Action action : {rpc::Action::KILL, rpc::Action::STOP, rpc::Action::PARK})
      deaths.push_back({{point, 0}, action});
  return deaths;
}

INSTANTIATE_TEST_SUITE_P(At, RefusalDeath, testing::ValuesIn(everyRefusalDeath()), deathName);

class ShardStartDeath : public testing::TestWithParam<Death> {};

TEST_P(ShardStartDeath, TheSuccessorStartsIt) {
  const auto [place, action] = GetParam();
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .watchdogMs = WATCHDOG_MS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  auto barrier = arm(server, coordinatorHooks(server), place.point, action);
  kill(server.shardPid(1), SIGKILL);
  auto read = target.readLater(EXTENT);  // owned by the shard that was killed
  EXPECT_EQ(read.get(), image.at(target.offset(EXTENT)));
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  expectContent(target, {});
}

INSTANTIATE_TEST_SUITE_P(At, ShardStartDeath,
                         testing::Values(Death{{"shardStarting", 0}, rpc::Action::KILL},
                                         Death{{"shardStarting", 0}, rpc::Action::STOP},
                                         Death{{"shardStarting", 0}, rpc::Action::PARK}),
                         deathName);

class SuccessorDeath : public testing::TestWithParam<Death> {};

// The successor dies during its own recovery; the next one begins that again.
TEST_P(SuccessorDeath, RecoveryCanBeginAgain) {
  const auto [place, action] = GetParam();
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .watchdogMs = WATCHDOG_MS});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  auto hooks = coordinatorHooks(server);
  auto successor = hooks.armRequest();
  successor.setPoint(place.point);
  successor.setAction(action);
  successor.setPage(failpoints::ANY_PAGE);
  const int never = eventfd(0, EFD_CLOEXEC);
  successor.setResume(rpc::makeFd(kj::AutoCloseFd(never)));
  successor.setSuccessor(true);
  server.wait(successor.send());
  auto barrier = arm(server, hooks, "midMark", rpc::Action::KILL, failpoints::ANY_PAGE, COUNT / 2);
  auto given = target.giveBackLater(FIRST, COUNT);
  auto read = target.readLater(0);
  given.get();
  EXPECT_EQ(read.get(), image.at(target.offset(0)));
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 3u);
  expectContent(target, pagesOf(FIRST, COUNT));
}

std::vector<Death> everySuccessorDeath() {
  std::vector<Death> deaths;
  for (const char* point : {"adoptClaimed", "adoptDrained", "adoptReplayed", "adoptOpened"})
    for (const rpc::Action action : {rpc::Action::KILL, rpc::Action::STOP, rpc::Action::PARK})
      deaths.push_back({{point, 0}, action});
  return deaths;
}

INSTANTIATE_TEST_SUITE_P(At, SuccessorDeath, testing::ValuesIn(everySuccessorDeath()), deathName);

TEST(CoordinatorDeathElsewhere, ABackgroundPopulationGoesOn) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .prefault = true});
  Target target(image, server.socket(), SMALL);
  server.restore();
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  server.wait(server.restore().waitCompleteRequest().send());
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.inMemory(page)) << page;
  expectContent(target, {});
}

TEST(CoordinatorDeathElsewhere, APausedRestoreStaysPaused) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.wait(server.restore().pauseRequest().send());
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  auto read = target.readLater(1);
  await([&] { return target.queued().pending == 1; });
  auto restore = server.client().restore("vm");
  EXPECT_EQ(server.wait(restore.infoRequest().send()).getInfo().getPhase(), rpc::Phase::PAUSED);
  server.wait(restore.resumeRequest().send());
  EXPECT_EQ(read.get(), image.at(target.offset(1)));
}

}  // namespace
}  // namespace faultline::test
