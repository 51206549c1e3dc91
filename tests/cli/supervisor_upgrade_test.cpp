// The supervisor starts another build's programs, goes back to the one before, and leaves.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "process/process.h"
#include "supervisor/supervisor.h"
#include "tests/cli/fake_manager.h"
#include "tests/cli/supervised.h"

namespace faultline::test {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

// The coordinator has the next build's programs started in its place.
void leaveForTheNext(Incarnation& coordinator) {
  kj::AutoCloseFd program(open(process::siblingExecutable("fake-coordinator").c_str(), O_PATH | O_CLOEXEC));
  coordinator.say("program", "coordinator", program.get());
  coordinator.say("program", "shard", memoryWith("the next shard").get());
  coordinator.say("upgrade", "/next");
  coordinator.expect("leave");
  coordinator.order("exit", "0");
}

TEST(SupervisorUpgrade, StartsThePrograms) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  supervised.makeUnstartable();  // only the programs that were sent can be started
  leaveForTheNext(first);

  Incarnation next = supervised.next();
  auto introduction = next.introduction();
  EXPECT_EQ(contentOf(introduction.fds["program.shard"].get()), "the next shard");
  EXPECT_EQ(introduction.upgradeGivenUp, "");
  EXPECT_THAT(introduction.died, HasSubstr("left for build /next"));
  EXPECT_TRUE(introduction.asked);
  next.say("ready");

  // A coordinator that dies after it has served is followed by its own build.
  next.kill();
  introduction = supervised.next().introduction();
  EXPECT_THAT(introduction.names, Contains("program.shard"));
  EXPECT_FALSE(introduction.asked);
}

TEST(SupervisorUpgrade, GoesBackWhereTheNextOneDoesNotServe) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  leaveForTheNext(first);
  Incarnation next = supervised.next();
  next.introduction();
  next.kill();

  auto introduction = supervised.next().introduction();
  EXPECT_THAT(introduction.names, Not(Contains("program.shard")));
  EXPECT_FALSE(introduction.asked);
  EXPECT_THAT(introduction.upgradeGivenUp, AllOf(HasSubstr("/next/"), HasSubstr("killed by signal 9")));
}

TEST(SupervisorUpgrade, GoesBackWhereTheNextOneIsSilent) {
  Beginning setup;
  setup.startLimit = std::chrono::milliseconds(1000);
  Supervised supervised(kj::mv(setup));
  Incarnation first = begin(supervised);
  leaveForTheNext(first);
  Incarnation next = supervised.next();
  next.signal(SIGSTOP);
  EXPECT_THAT(supervised.next().introduction().upgradeGivenUp, HasSubstr("not been heard of"));
}

TEST(SupervisorUpgrade, NeedsThePrograms) {
  Supervised supervised;
  Incarnation only = begin(supervised);
  only.say("upgrade", "/next");
  supervised.signal(SIGTERM);
  only.expect("end");  // and nothing before it
}

TEST(SupervisorLeaves, AndKillsACoordinatorThatDoesNot) {
  FakeManager manager;
  Beginning setup = under(manager);
  setup.watchdog = std::chrono::milliseconds(1000);
  Supervised supervised(kj::mv(setup));
  Incarnation only = begin(supervised);
  supervised.signal(SIGUSR1);
  only.expect("leave");
  EXPECT_EQ(supervised.exitCode(), supervisor::Supervisor::LEFT);
}

TEST(SupervisorLeaves, NotWithoutAServiceManager) {
  Supervised supervised;
  Incarnation only = begin(supervised);
  supervised.signal(SIGUSR1);
  supervised.signal(SIGTERM);
  only.expect("end");  // and nothing before it
  only.say("shutdown");
  only.order("exit", "0");
  EXPECT_EQ(supervised.exitCode(), 0);
}

}  // namespace
}  // namespace faultline::test
