// The state that a coordinator's successor begins with, and when there is one.

#include "supervisor/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>

#include "process/clock.h"
#include "tests/cli/supervised.h"

namespace faultline::test {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Supervisor, FirstCoordinatorBeginsWithWhatWasGiven) {
  Beginning setup;
  setup.kept.keep("control", memoryWith("the control socket"));
  setup.kept.keep("listener.vm.source", memoryWith("the image"));
  Supervised supervised(kj::mv(setup));

  auto told = supervised.next().introduction();

  EXPECT_THAT(told.names, ElementsAre("control", "listener.vm.source"));
  EXPECT_EQ(contentOf(told.fds["control"].get()), "the control socket");
  EXPECT_EQ(contentOf(told.fds["listener.vm.source"].get()), "the image");
  EXPECT_EQ(told.number, "1");
  EXPECT_THAT(told.events, IsEmpty());
  EXPECT_EQ(told.died, "");
}

TEST(Supervisor, StoredFdsComeBackAfterAKill) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  first.say("store", "restore.7.uffd", memoryWith("a uffd").get());
  first.say("store", "restore.7.segment", memoryWith("a segment").get());
  first.say("store", "restore.8.uffd", memoryWith("another").get());
  first.say("drop", "restore.8.uffd");
  const std::uint64_t before = process::nowNs();
  first.kill();

  auto told = supervised.next().introduction();

  EXPECT_THAT(told.names, ElementsAre("restore.7.uffd", "restore.7.segment"));
  EXPECT_EQ(contentOf(told.fds["restore.7.uffd"].get()), "a uffd");
  EXPECT_EQ(contentOf(told.fds["restore.7.segment"].get()), "a segment");
  EXPECT_EQ(told.number, "2");
  EXPECT_THAT(told.died, HasSubstr("killed by signal 9 (Killed)"));
  EXPECT_THAT(told.died, HasSubstr("pid " + std::to_string(first.pid())));
  EXPECT_GE(told.diedAt, before);
  EXPECT_LE(told.diedAt, process::nowNs());
}

TEST(Supervisor, StoringANameAgainReplacesItsFd) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  first.say("store", "shard.0.channel", memoryWith("old").get());
  first.say("store", "shard.1.channel", memoryWith("other").get());
  first.say("store", "shard.0.channel", memoryWith("new").get());
  first.kill();

  auto told = supervised.next().introduction();

  EXPECT_THAT(told.names, ElementsAre("shard.0.channel", "shard.1.channel"));
  EXPECT_EQ(contentOf(told.fds["shard.0.channel"].get()), "new");
}

TEST(Supervisor, BadStoresAreRefusedAndHarmNothing) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  first.say("store", "without.fd");
  first.say("store", "", memoryWith("x").get());
  first.say("store", "with:colon", memoryWith("x").get());
  first.say("store", std::string(300, 'n'), memoryWith("x").get());
  first.say("nonsense", "whatever");
  first.say("store", "good", memoryWith("x").get());
  first.kill();

  EXPECT_THAT(supervised.next().introduction().names, ElementsAre("good"));
}

// A supervisor without room for an fd tells the coordinator that wanted it kept, and each successor until it
// is kept.
TEST(Supervisor, AnFdThatItHasNoRoomForIsToldUntilItIsKept) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  rlimit limit{};
  ASSERT_EQ(prlimit(supervised.pid(), RLIMIT_NOFILE, nullptr, &limit), 0);
  // The supervisor goes on polling its fds, and gets not one more.
  rlim_t taken = 0;
  while (access(("/proc/" + std::to_string(supervised.pid()) + "/fd/" + std::to_string(taken)).c_str(),
                F_OK) == 0)
    taken++;
  const rlimit none{taken, limit.rlim_max};
  ASSERT_EQ(prlimit(supervised.pid(), RLIMIT_NOFILE, &none, nullptr), 0);
  for (const char* name : {"restore.7.uffd", "restore.7.segment"}) {
    first.say("store", name, memoryWith("anything").get());
    EXPECT_EQ(first.expect("lost").name, name);
  }
  ASSERT_EQ(prlimit(supervised.pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
  first.say("store", "restore.7.uffd", memoryWith("a uffd").get());
  first.kill();

  Incarnation second = supervised.next();
  auto told = second.introduction();
  EXPECT_THAT(told.names, ElementsAre("restore.7.uffd"));
  EXPECT_THAT(told.lost, ElementsAre("restore.7.segment"));
  second.say("drop", "restore.7.segment");
  second.kill();
  EXPECT_THAT(supervised.next().introduction().lost, IsEmpty());
}

TEST(Supervisor, TheLatestEventsAreReplayed) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  for (int i = 0; i < 70; i++) first.say("event", "12345 event " + std::to_string(i));
  first.kill();

  auto told = supervised.next().introduction();

  ASSERT_EQ(told.events.size(), 64u);
  EXPECT_EQ(told.events.front(), "12345 event 6");
  EXPECT_EQ(told.events.back(), "12345 event 69");
}

TEST(Supervisor, IncarnationsAreCounted) {
  Supervised supervised;
  begin(supervised).kill();
  for (int number = 2; number < 5; number++) {
    Incarnation successor = supervised.next();
    EXPECT_EQ(successor.introduction().number, std::to_string(number));
    successor.say("ready");
    successor.kill();
  }
}

// --- the watchdog ---

TEST(Supervisor, ACoordinatorThatPingsIsLeftAlone) {
  Beginning setup;
  setup.watchdog = milliseconds(1000);
  setup.pingMs = 20;
  Supervised supervised(kj::mv(setup));
  Incarnation first = supervised.next();
  first.introduction();
  first.order("ready");
  for (int pings = 0; pings < 75; pings++) first.skipTo("pinged");  // longer than the watchdog's time

  first.signal(SIGSTOP);

  Incarnation second = supervised.next();
  auto told = second.introduction();
  EXPECT_EQ(told.number, "2");
  EXPECT_THAT(told.died, HasSubstr("not been heard of for 1000 ms"));
}

TEST(Supervisor, ACoordinatorThatNeverGetsReadyIsReplaced) {
  Beginning setup;
  setup.startLimit = milliseconds(300);
  Supervised supervised(kj::mv(setup));
  supervised.next().introduction();

  EXPECT_NE(supervised.next().introduction().number, "1");
}

// The kept fds may be more than the channel takes: the supervisor must not wait for the stopped reader.
TEST(Supervisor, AStoppedCoordinatorIsReplacedWhileItsChannelIsFull) {
  Beginning setup;
  setup.startLimit = milliseconds(300);
  for (int i = 0; i < 1000; i++) setup.kept.keep("restore." + std::to_string(i) + ".uffd", memoryWith("x"));
  Supervised supervised(kj::mv(setup));
  Incarnation first = supervised.next();
  first.signal(SIGSTOP);

  auto told = supervised.next().introduction();

  EXPECT_NE(told.number, "1");
  EXPECT_EQ(told.names.size(), 1000u);
}

// --- restarting ---

TEST(Supervisor, ACrashLoopIsSlowedDown) {
  using Clock = std::chrono::steady_clock;
  Supervised supervised;
  // The death of one that served is answered at once, and so is the first of one that never did; what comes
  // then is not.
  begin(supervised).kill();
  supervised.next().kill();
  for (const int pause : {10, 20, 40, 80, 160}) {
    Incarnation young = supervised.next();
    const Clock::time_point before = Clock::now();
    young.kill();
    awaitReadable(supervised.nextIsThere(), "the next coordinator");
    EXPECT_GE(Clock::now() - before, milliseconds(pause));
  }
}

TEST(Supervisor, ACoordinatorThatNeverServedIsGivenUpAfterEightTries) {
  Supervised supervised;
  for (int i = 0; i < 8; i++) {
    Incarnation next = supervised.next();
    next.introduction();
    next.order("exit", "1");
  }

  EXPECT_EQ(supervised.exitCode(), 1);
}

TEST(Supervisor, ARefusalBeforeTheFirstReadyIsNotTriedAgain) {
  for (const int code : {64, 77, 78}) {
    Supervised supervised;
    Incarnation first = supervised.next();
    first.introduction();
    first.order("exit", std::to_string(code));

    EXPECT_EQ(supervised.exitCode(), code);
  }
}

TEST(Supervisor, ARefusalAfterwardsIsACrashLikeAnyOther) {
  Supervised supervised;
  begin(supervised).order("exit", "77");

  auto told = supervised.next().introduction();

  EXPECT_THAT(told.died, HasSubstr("exited with code 77"));
}

TEST(Supervisor, ACoordinatorThatExitsWithoutShutdownIsReplaced) {
  Supervised supervised;
  begin(supervised).order("exit", "0");

  EXPECT_EQ(supervised.next().introduction().number, "2");
}

TEST(Supervisor, AnExecutableThatIsMissingForAWhileCostsNothingThatIsKept) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  first.say("store", "restore.1.uffd", memoryWith("a uffd").get());
  supervised.makeUnstartable();
  first.kill();
  supervised.makeStartable();

  EXPECT_THAT(supervised.next().introduction().names, ElementsAre("restore.1.uffd"));
}

}  // namespace
}  // namespace faultline::test
