// Limits of background population that an operator sets for the host, or the kernel for a target.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "process/process.h"
#include "tests/support/image.h"
#include "tests/support/memory_group.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t SMALL = 4096, MIB = 1u << 20;

struct State {
  std::string held;
  std::uint64_t missing, faulted;
};
State stateOf(Server& server, rpc::Restore::Client& restore) {
  auto response = server.wait(restore.infoRequest().send());
  const auto info = response.getInfo();
  return {info.getPopulationHeld(), info.getMissing(), info.getFaulted()};
}

// Interleaving: the first restore's population is held in its first section.
TEST(PopulationLimit, SoManyRestoresArePopulatedAtOnce) {
  Image image(64 * SMALL);
  Server server(image, {.shards = 1, .workers = 2, .more = {"--populations", "1"}});
  Target first(image, server.socket(), SMALL);
  auto one = server.restore(0);
  auto barrier = server.barrier(0, rpc::FaultPoint::BEFORE_COPY);
  auto prefault = server.wait(one.prefaultRequest().send()).getPrefault();
  server.wait(barrier.waitHeldRequest().send());
  Target second(image, server.socket(), SMALL), third(image, server.socket(), SMALL);
  auto two = server.restore(1), three = server.restore(2);
  server.wait(two.prefaultRequest().send());
  server.wait(three.prefaultRequest().send());
  EXPECT_EQ(stateOf(server, one).held, "");
  EXPECT_NE(stateOf(server, two).held.find("0 come before it"), std::string::npos);
  EXPECT_NE(stateOf(server, three).held.find("1 come before it"), std::string::npos);
  EXPECT_EQ(stateOf(server, three).missing, third.pages());
  // Faults do not wait for a turn.
  EXPECT_TRUE(third.holdsImage(7));
  server.wait(barrier.releaseRequest().send());
  for (auto* restore : {&one, &two, &three}) server.wait(restore->waitCompleteRequest().send());
}

// Interleaving: as before; the first target goes while the others wait.
TEST(PopulationLimit, ATargetThatGoesLeavesItsTurn) {
  Image image(64 * SMALL);
  Server server(image, {.shards = 1, .workers = 2, .more = {"--populations", "1"}});
  auto first = std::make_unique<Target>(image, server.socket(), SMALL);
  auto one = server.restore(0);
  server.wait(one.pauseRequest().send());
  server.wait(one.resumeRequest().send());
  auto barrier = server.barrier(0, rpc::FaultPoint::BEFORE_COPY);
  server.wait(one.prefaultRequest().send());
  server.wait(barrier.waitHeldRequest().send());
  Target second(image, server.socket(), SMALL);
  auto two = server.restore(1);
  server.wait(two.prefaultRequest().send());
  EXPECT_NE(stateOf(server, two).held, "");
  server.wait(barrier.releaseRequest().send());
  first.reset();
  server.wait(two.waitCompleteRequest().send());
}

// A paused restore would keep its turn for as long as its operator likes.
TEST(PopulationLimit, APausedRestoreLeavesItsTurn) {
  Image image(64 * SMALL);
  Server server(image, {.shards = 1, .workers = 2, .more = {"--populations", "1"}});
  Target first(image, server.socket(), SMALL), second(image, server.socket(), SMALL);
  auto one = server.restore(0), two = server.restore(1);
  server.wait(one.pauseRequest().send());
  server.wait(one.prefaultRequest().send());
  EXPECT_EQ(stateOf(server, one).held, "it is paused");
  server.wait(two.prefaultRequest().send());
  server.wait(two.waitCompleteRequest().send());
  EXPECT_EQ(stateOf(server, one).missing, first.pages());
  server.wait(one.resumeRequest().send());
  server.wait(one.waitCompleteRequest().send());
}

TEST(PopulationLimit, TheRateIsThatOfAllShardsTogether) {
  constexpr std::uint64_t SIZE = 16 * MIB;
  Image image(SIZE);
  Server server(image, {.shards = 3, .more = {"--population-rate", "16MiB"}});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  const auto begin = std::chrono::steady_clock::now();
  server.wait(restore.prefaultRequest().send());
  server.wait(restore.waitCompleteRequest().send());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_GT(took.count(), 0.7) << "16 MiB at 16 MiB a second";
}

// Missing pages come before the limit for the end, whatever the rate.
TEST(PopulationLimit, TheEndOfTheServiceDoesNotKeepTheRate) {
  Image image(64 * MIB);
  Server server(image, {.prefault = true, .more = {"--population-rate", "1MiB", "--populations", "1"}});
  Target first(image, server.socket(), SMALL), second(image, server.socket(), SMALL);
  server.restore(0), server.restore(1);
  kill(server.supervisor(), SIGTERM);
  siginfo_t how{};
  waitid(P_PID, static_cast<id_t>(server.supervisor()), &how, WEXITED | WNOWAIT);
  for (std::uint64_t page = 0; page < first.pages(); page += 97) {
    ASSERT_EQ(first.touch(page), Touch::ok) << page;
    ASSERT_EQ(second.touch(page), Touch::ok) << page;
  }
}

// A target in a process and a control group of its own, which stops once it has touched some pages.
class LimitedTarget {
 public:
  LimitedTarget(const MemoryGroup& group, const Image& image, const std::string& socket) {
    const std::string program = process::siblingExecutable("faultline-target");
    pid_ = fork();
    if (pid_ != 0) return;
    group.enter();
    const int nothing = open("/dev/null", O_WRONLY);
    dup2(nothing, STDOUT_FILENO);
    execl(program.c_str(), program.c_str(), "--image", image.path().c_str(), "--socket", socket.c_str(),
          "--threads", "1", "--stop-after", "16", nullptr);
    _exit(127);
  }
  ~LimitedTarget() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  LimitedTarget(const LimitedTarget&) = delete;

  bool lives() const {
    siginfo_t how{};
    return waitid(P_PID, static_cast<id_t>(pid_), &how, WEXITED | WNOHANG | WNOWAIT) == 0 && how.si_pid == 0;
  }

 private:
  pid_t pid_;
};

// The kernel would kill the target for pages that it may never touch.
TEST(PopulationLimit, ATargetThatMayNotHaveItsSnapshotIsNotPopulated) {
  const MemoryGroup group;
  if (!group.made()) GTEST_SKIP() << "no control group with the memory controller can be made here";
  Image image(96 * MIB);
  group.limit(64 * MIB);
  Server server(image, {.prefault = true});
  const LimitedTarget target(group, image, server.socket());
  auto restore = server.restore();
  await([&] { return stateOf(server, restore).faulted >= 16 && !stateOf(server, restore).held.empty(); });
  const State held = stateOf(server, restore);
  EXPECT_NE(held.held.find(group.path()), std::string::npos) << held.held;
  EXPECT_LT(held.faulted * SMALL, 8 * MIB);
  EXPECT_EQ(group.killed(), 0u);
  EXPECT_TRUE(target.lives());
  // The operator gives it more.
  group.limit(512 * MIB);
  server.wait(restore.waitCompleteRequest().send());
  EXPECT_EQ(stateOf(server, restore).missing, 0u);
  EXPECT_TRUE(target.lives());
}

// One fits, and both do not.
TEST(PopulationLimit, TargetsOfOneGroupAreAddedUp) {
  const MemoryGroup group;
  if (!group.made()) GTEST_SKIP() << "no control group with the memory controller can be made here";
  Image image(96 * MIB);
  group.limit(160 * MIB);
  Server server(image, {.prefault = true});
  const LimitedTarget first(group, image, server.socket()), second(group, image, server.socket());
  auto one = server.restore(0), two = server.restore(1);
  await([&] {
    const State a = stateOf(server, one), b = stateOf(server, two);
    return (a.missing == 0 && !b.held.empty()) || (b.missing == 0 && !a.held.empty());
  });
  EXPECT_EQ(group.killed(), 0u);
  EXPECT_TRUE(first.lives());
  EXPECT_TRUE(second.lives());
}

// Holes take no memory: the kernel has one page of zeros for all.
TEST(PopulationLimit, HolesOfTheSnapshotTakeNoRoom) {
  const MemoryGroup group;
  if (!group.made()) GTEST_SKIP() << "no control group with the memory controller can be made here";
  Image image(96 * MIB);
  image.hole(16 * MIB, 80 * MIB);
  group.limit(64 * MIB);
  Server server(image, {.prefault = true});
  const LimitedTarget target(group, image, server.socket());
  auto restore = server.restore();
  server.wait(restore.waitCompleteRequest().send());
  EXPECT_EQ(group.killed(), 0u);
  EXPECT_TRUE(target.lives());
}

}  // namespace
}  // namespace faultline::test
