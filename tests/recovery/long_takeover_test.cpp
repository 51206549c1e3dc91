// A restore is large, and its takeover takes its time: other restores, and targets that have just come, are served
// meanwhile.

#include <sys/eventfd.h>

#include <cctype>
#include <future>
#include <vector>

#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

// Pages that are given back: around a border of extents, so of two shards.
constexpr std::uint64_t FIRST = EXTENT - 4, COUNT = 8;
// The page before whose check the large restore's takeover is held. The little one has none of this number.
constexpr std::uint64_t HELD = 2 * EXTENT, LITTLE = EXTENT;

pid_t parentOf(const std::string& stat) {
  // proc(5): "PID (NAME) STATE PPID ..."
  return static_cast<pid_t>(std::stol(stat.substr(stat.rfind(") ") + 4)));
}

// The coordinator that the supervisor has now, which may not answer yet.
pid_t coordinatorOf(pid_t supervisor) {
  for (const auto& process : std::filesystem::directory_iterator("/proc")) {
    if (std::isdigit(process.path().filename().string().front()) == 0) continue;
    const std::string stat = textOf(process.path().string() + "/stat");
    if (stat.find("(faultline-coord)") != std::string::npos && parentOf(stat) == supervisor)
      return static_cast<pid_t>(std::stol(stat));
  }
  return 0;
}

// The coordinator has read a removal of the large restore, has marked none of it and is dead. Its successor is in the
// middle of taking that restore over.
struct LongTakeover {
  LongTakeover() {
    server.restore(1);
    for (unsigned i = 0; i < SHARDS; i++) shards.push_back(server.shardPid(i));
    auto hooks = coordinatorHooks(server);
    auto successor = hooks.armRequest();
    successor.setPoint("adoptChecking");
    successor.setAction(rpc::Action::PARK);
    successor.setPage(HELD);
    successor.setReached(rpc::makeFdFrom(reached.get()));
    successor.setResume(rpc::makeFdFrom(resume.get()));
    successor.setSuccessor(true);
    server.wait(successor.send());
    auto death = arm(server, hooks, "afterRead", rpc::Action::KILL);
    large.giveBack(FIRST, COUNT);
    untouched = large.readLater(0);
    given = large.readLater(FIRST);
    eventfd_t times;
    EXPECT_EQ(eventfd_read(reached.get(), &times), 0);
    await([&] { return large.queued().pending == 2; });
  }

  // Nothing of the large restore is answered, and no section of it can begin.
  void expectHeld() {
    EXPECT_TRUE(segment.lock().closed());
    EXPECT_FALSE(segment.journal().empty());
    // A shard that comes up has them woken, and they fault again.
    await([&] { return large.queued().pending == 2; });
  }

  // Waits until its takeover is over.
  void expectServed() {
    EXPECT_EQ(untouched.get(), image.at(large.offset(0)));
    EXPECT_EQ(given.get(), 0);
    expectContent(large, pagesOf(FIRST, COUNT));
    server.reconnect();
    EXPECT_FALSE(segment.lock().closed());
    EXPECT_TRUE(segment.journal().empty());
  }

  const kj::AutoCloseFd reached{eventfd(0, EFD_CLOEXEC)}, resume{eventfd(0, EFD_CLOEXEC)};
  Image image{PAGES * SMALL}, littleImage{LITTLE * SMALL};
  Server server{image, {.shards = SHARDS}};
  Target large{image, server.socket(), SMALL};
  rpc::Restore::Client restore{server.restore(0)};
  shm::Segment segment{server.segment(0)};
  Target little{littleImage, server.socket(), SMALL};
  std::vector<pid_t> shards;
  std::future<unsigned char> untouched, given;
};

TEST(LongTakeover, HoldsUpNeitherAnotherRestoreNorANewTarget) {
  LongTakeover takeover;
  takeover.little.giveBack(3);
  expectContent(takeover.little, {3});
  {
    const Target fresh(takeover.littleImage, takeover.server.socket(), SMALL);
    expectContent(fresh, {});
  }
  takeover.expectHeld();
  ASSERT_EQ(eventfd_write(takeover.resume.get(), 1), 0);
  takeover.expectServed();
  EXPECT_EQ(takeover.server.status().getIncarnation(), 2u);
  EXPECT_EQ(takeover.server.status().getTotals().getRestoresFailed(), 0u);
}

enum class Dies { coordinatorAlone, shardsAsWell };

class LongTakeoverDeath : public testing::TestWithParam<Dies> {};

// The next takeover begins again, whatever was marked and checked.
TEST_P(LongTakeoverDeath, OfWhoTakesOverLosesNothing) {
  LongTakeover takeover;
  takeover.little.giveBack(3);
  EXPECT_TRUE(takeover.little.holdsImage(5));
  const pid_t coordinator = coordinatorOf(takeover.server.supervisor());
  ASSERT_GT(coordinator, 0);
  takeover.expectHeld();
  if (GetParam() == Dies::shardsAsWell) {
    kill(coordinator, SIGSTOP);  // it starts no others
    awaitStopped(coordinator);
    for (const pid_t shard : takeover.shards) kill(shard, SIGKILL);
  }
  kill(coordinator, SIGKILL);
  takeover.expectServed();
  expectContent(takeover.little, {3});
  EXPECT_EQ(takeover.server.status().getIncarnation(), 3u);
  EXPECT_EQ(takeover.server.status().getTotals().getRestoresFailed(), 0u);
}

INSTANTIATE_TEST_SUITE_P(At, LongTakeoverDeath, testing::Values(Dies::coordinatorAlone, Dies::shardsAsWell),
                         [](const auto& info) {
                           return info.param == Dies::shardsAsWell ? "AndOfTheShards" : "Alone";
                         });

}  // namespace
}  // namespace faultline::test
