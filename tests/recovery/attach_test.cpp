// An attach that is under way, or fails, when a shard or a target has gone meanwhile.

#include "tests/recovery/recovery_test.h"
#include "tests/recovery/segment_bytes.h"
#include "tests/support/child_process.h"

namespace faultline::test {
namespace {

// Its main thread has nothing to do.
bool asleep(pid_t pid) {
  const std::string stat = textOf("/proc/" + std::to_string(pid) + "/stat");
  return stat.substr(stat.rfind(')')).rfind(") S", 0) == 0;
}

// The target goes while a shard has not answered its attach: the restore that asked for it is no more when it
// does.
TEST(Attach, ThatIsAnsweredAfterTheTargetsEndIsTakenBack) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  const pid_t shard = server.shardPid(0);
  kill(shard, SIGSTOP);
  Signal leave;
  ChildProcess child([&] {
    Target target(image, server.socket(), SMALL);
    leave.wait();
    _exit(0);
  });
  await([&] { return server.status().getTotals().getRestoresBegun() == 1; });
  leave.send();
  child.join();
  await([&] { return server.status().getRestores().size() == 0; });
  kill(shard, SIGCONT);
  // Two round trips behind the attach, which has begun at the latest then.
  for (int i = 0; i < 2; i++) shardHooks(server, 0);
  await([&] { return uffdsOf(shard) == 0; });
}

// Shards are asked for what they could not be asked for before.
TEST(Attach, APrefaultAskedForBeforeItIsAnsweredIsDone) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  for (unsigned i = 0; i < SHARDS; i++) kill(server.shardPid(i), SIGSTOP);
  Target target(image, server.socket(), SMALL);
  await([&] { return server.status().getTotals().getRestoresBegun() == 1; });
  auto prefault = server.wait(server.client().restore("vm").prefaultRequest().send()).getPrefault();
  for (unsigned i = 0; i < SHARDS; i++) kill(server.shardPid(i), SIGCONT);
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.inMemory(page)) << page;
}

// The shard has seen the pause as it attached; that and the resume then come to the coordinator together, and
// either may be heard first: so a few times.
TEST(Attach, AResumeBeforeItIsAnsweredReachesTheShard) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  const pid_t shard = server.shardPid(0), coordinator = server.coordinatorPid();
  std::vector<std::unique_ptr<Target>> targets;
  for (unsigned n = 0; n < 10; n++) {
    kill(shard, SIGSTOP);
    targets.push_back(std::make_unique<Target>(image, server.socket(), SMALL));
    await([&] { return server.status().getTotals().getRestoresBegun() == n + 1; });
    auto restore = server.client().restore(Server::restoreName(n));
    server.wait(restore.pauseRequest().send());
    kill(coordinator, SIGSTOP);
    auto resumed = restore.resumeRequest().send();
    resumed.poll(server.client().io().waitScope);  // sends it
    kill(shard, SIGCONT);
    await([&] { return uffdsOf(shard) == n + 1 && asleep(shard); });
    kill(coordinator, SIGCONT);
    server.wait(kj::mv(resumed));
    auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
    server.wait(prefault.waitRequest().send());
  }
}

TEST(Attach, ThatFailsAfterAShardsDeathFailsThatRestoreAlone) {
  TwoRestores two;
  SegmentBytes bytes(two.server);
  bytes[0] ^= 0xff;  // a shard that maps it from now on does not believe it
  kill(two.server.shardPid(1), SIGKILL);
  awaitRestarts(two.server, 1, 1);
  EXPECT_EQ(two.target.touch(EXTENT), Touch::sigbus);
  EXPECT_EQ(two.target.touch(0), Touch::sigbus);
  expectContent(two.bystander, {});
  EXPECT_EQ(two.server.wait(two.restore.infoRequest().send()).getInfo().getPhase(), rpc::Phase::FAILED);
}

TEST(Attach, OfARestoreThatHasFailedIsTakenBackAtItsEnd) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  SegmentBytes bytes(server);
  bytes[0] ^= 0xff;
  kill(server.shardPid(1), SIGKILL);
  awaitRestarts(server, 1, 1);
  EXPECT_EQ(target.touch(EXTENT), Touch::sigbus);
  auto detach = server.client().restore("vm").detachRequest();
  detach.setForce(true);
  server.wait(detach.send());
  for (unsigned shard = 0; shard < SHARDS; shard++)
    await([&] { return uffdsOf(server.shardPid(shard)) == 0; });
}

// A successor greets the shards that it finds: one that does not answer is replaced, and nothing waits for
// it.
TEST(Attach, AShardThatStandsStillDoesNotHoldUpTheNextCoordinator) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .watchdogMs = WATCHDOG_MS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const pid_t coordinator = server.coordinatorPid(), shard = server.shardPid(1);
  kill(shard, SIGSTOP);
  kill(coordinator, SIGKILL);
  server.reconnect();
  expectContent(target, {});
  awaitRestarts(server, 1, 1);
  Target later(image, server.socket(), SMALL);
  expectContent(later, {});
}

}  // namespace
}  // namespace faultline::test
