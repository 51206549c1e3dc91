// The end of a service that loses nothing, and who hears of what happens.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "cli/errors.h"
#include "process/process.h"
#include "rpc/refusal.h"
#include "tests/cli/command.h"
#include "tests/recovery/recovery_test.h"
#include "tests/support/memory_group.h"

namespace faultline::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint64_t MIB = 1u << 20;

struct Drain : testing::Test {
  Image image{64 * SMALL};

  static auto drain(Server& server) {
    return server.client().coordinator().drainRequest().send().ignoreResult();
  }
  static rpc::Refusal refusal(Server& server) {
    rpc::Refusal refused;
    server.wait(drain(server).catch_([&](kj::Exception&& error) { refused = rpc::refusalOf(error); }));
    return refused;
  }
  static void awaitEnd(const Server& server) {
    siginfo_t how{};
    waitid(P_PID, static_cast<id_t>(server.supervisor()), &how, WEXITED | WNOWAIT);
    EXPECT_EQ(how.si_status, 0);
  }
};

TEST_F(Drain, PopulatesEverythingAndEnds) {
  Server server(image);
  Target first(image, server.socket(), SMALL), second(image, server.socket(), SMALL);
  server.restore(0), server.restore(1);
  server.wait(drain(server));
  awaitEnd(server);
  for (std::uint64_t page = 0; page < first.pages(); page++) {
    ASSERT_TRUE(first.inMemory(page) && second.inMemory(page)) << page;
    ASSERT_TRUE(first.holdsImage(page) && second.holdsImage(page)) << page;
  }
}

// Interleaving: the population that the drain waits for is held as another target connects; then who asked for the drain
// goes. The target is served as if nothing had been asked for.
TEST_F(Drain, WithoutItsCallerTheServiceGoesOnAsItWas) {
  Server server(image);
  Target first(image, server.socket(), SMALL);
  auto one = server.restore(0);
  auto barrier = server.barrier(0, rpc::FaultPoint::BEFORE_COPY);
  {
    Command caller({"drain", "--quiet", "--control", server.control()});
    server.wait(barrier.waitHeldRequest().send());
    Target waiting(image, server.socket(), SMALL);
    // The call is behind the connection in no queue: asked often enough, an unheld listener would have served it.
    for (unsigned i = 0; i < 50; i++)
      ASSERT_EQ(server.wait(server.client().coordinator().listRequest().send()).getRestores().size(), 1u);
    EXPECT_EQ(refusal(server).reason, rpc::Reason::NOT_READY) << "it is drained already";
    caller.signal(SIGINT);
    EXPECT_NE(caller.finish().code, 0);
    auto two = server.restore(1);
    EXPECT_TRUE(waiting.holdsImage(3));
  }
  server.wait(barrier.releaseRequest().send());
  Target another(image, server.socket(), SMALL);
  EXPECT_TRUE(another.holdsImage(7));
  EXPECT_NE(server.eventWith({"not drained", "as it was"}), "");
}

TEST_F(Drain, IsRefusedWhereARestoreIsPaused) {
  Server server(image);
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  const auto refused = run({"drain", "--control", server.control()});
  EXPECT_EQ(refused.code, cli::REFUSED);
  EXPECT_THAT(refused.err, HasSubstr("restore vm is paused"));
  server.wait(restore.resumeRequest().send());
  Target next(image, server.socket(), SMALL);
  EXPECT_TRUE(next.holdsImage(1));
  const auto done = run({"drain", "--control", server.control()});
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_THAT(done.out, HasSubstr("every restore is complete"));
  awaitEnd(server);
}

// Its target would be killed for it.
TEST_F(Drain, IsGivenUpWhereATargetMayNotHaveItsMemory) {
  const MemoryGroup group;
  if (!group.made()) GTEST_SKIP() << "no control group with the memory controller can be made here";
  Image large(96 * MIB);
  group.limit(64 * MIB);
  Server server(large);
  const std::string program = process::siblingExecutable("faultline-target");
  const pid_t target = fork();
  if (target == 0) {
    group.enter();
    dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
    execl(program.c_str(), program.c_str(), "--image", large.path().c_str(), "--socket",
          server.socket().c_str(), "--threads", "1", "--stop-after", "16", nullptr);
    _exit(127);
  }
  server.restore();
  const auto refused = refusal(server);
  EXPECT_EQ(refused.reason, rpc::Reason::PAGES_MISSING);
  EXPECT_THAT(refused.message, AllOf(HasSubstr("goes on as it was"), HasSubstr(group.path())));
  EXPECT_EQ(group.killed(), 0u);
  Target next(large, server.socket(), SMALL);
  EXPECT_TRUE(next.holdsImage(1));
  // Pages that the drain asked for are asked for no more.
  auto restore = server.restoreNamed("vm");
  EXPECT_FALSE(server.wait(restore.infoRequest().send()).getInfo().getPrefaulting());
  kill(target, SIGKILL);
  waitpid(target, nullptr, 0);
}

TEST_F(Drain, EndsInErrorWhereTheSourceCannotGiveAPage) {
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  image.truncate(60 * SMALL);
  const auto refused = refusal(server);
  EXPECT_EQ(refused.reason, rpc::Reason::PAGES_MISSING);
  EXPECT_THAT(refused.message, HasSubstr("pages are not to be had"));
}

// --- events ---

TEST(EventsCommand, TellsWhatWasAndWhatComes) {
  Image image(64 * SMALL);
  Server server(image, {.shards = 2});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const auto reshard = [&](unsigned shards) {
    auto request = server.client().coordinator().reshardRequest();
    request.setRestore("vm");
    request.setShards(shards);
    server.wait(request.send());
  };
  reshard(1);
  const auto latest = run({"events", "--control", server.control()});
  EXPECT_EQ(latest.code, 0);
  EXPECT_THAT(latest.out, AllOf(HasSubstr("info"), HasSubstr("served by 1 shards")));
  Command following({"events", "--follow", "--json", "--control", server.control()});
  following.await("served by 1 shards");
  reshard(2);
  following.await("served by 2 shards");
  // A coordinator's death is an event, and ends no following.
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  following.await("takes over");
  following.signal(SIGINT);
  const auto result = following.finish();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("\"level\":\"info\""), HasSubstr("\"level\":\"warning\""),
                                HasSubstr("\"restore\":\"vm\"")));
}

}  // namespace
}  // namespace faultline::test
