// How a supervisor ends, and that nothing of it is left.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cli/supervised.h"

namespace faultline::test {
namespace {

// An fd to be kept, and whether a process keeps it still.
class Kept {
 public:
  Kept() {
    int ends[2];
    KJ_SYSCALL(pipe2(ends, O_CLOEXEC));
    reading_ = kj::AutoCloseFd(ends[0]);
    writing_ = kj::AutoCloseFd(ends[1]);
  }
  int fd() const { return writing_.get(); }
  kj::AutoCloseFd take() { return kj::mv(writing_); }
  // No process holds the fd: the pipe has no writer.
  bool gone() {
    writing_ = kj::AutoCloseFd();
    pollfd poll{reading_.get(), POLLIN, 0};
    return ::poll(&poll, 1, 0) == 1 && (poll.revents & POLLHUP) != 0;
  }

 private:
  kj::AutoCloseFd reading_, writing_;
};

bool exists(pid_t pid) {
  return ::kill(pid, 0) == 0;
}

// A process that the coordinator starts and leaves to the supervisor when it dies.
pid_t orphanOf(Incarnation& coordinator) {
  coordinator.order("orphan");
  return std::stoi(coordinator.expect("orphan").name);
}

TEST(SupervisorEnd, SigtermIsPassedOnAndNothingIsLeft) {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    Kept given, stored;
    Beginning setup;
    setup.kept.keep("control", given.take());
    Supervised supervised(kj::mv(setup));
    Incarnation only = begin(supervised);
    only.say("store", "restore.1.uffd", stored.fd());

    supervised.signal(signal);
    only.expect("end");
    only.say("shutdown");
    only.order("exit", "0");

    EXPECT_EQ(supervised.exitCode(), 0);
    EXPECT_FALSE(exists(only.pid()));
    EXPECT_TRUE(given.gone());
    EXPECT_TRUE(stored.gone());
  }
}

TEST(SupervisorEnd, ShutdownOfTheCoordinatorIsTheEnd) {
  Supervised supervised;
  Incarnation only = begin(supervised);
  only.say("shutdown");
  only.order("exit", "0");

  EXPECT_EQ(supervised.exitCode(), 0);
}

// It had not said that every target is let go: they would read zeros.
TEST(SupervisorEnd, ACoordinatorThatDiesMeanwhileIsReplacedAndToldAgain) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  supervised.signal(SIGTERM);
  EXPECT_EQ(first.expect("end").name, "");
  first.kill();
  Incarnation second = supervised.next();
  EXPECT_EQ(second.introduction().end, "");
  second.say("shutdown");
  second.order("exit", "0");

  EXPECT_EQ(supervised.exitCode(), 0);
}

TEST(SupervisorEnd, OneThatEndsWithoutAWordIsReplaced) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  first.say("ending");
  first.order("exit", "0");
  EXPECT_EQ(supervised.next().introduction().end, "");
}

TEST(SupervisorEnd, TheSecondSignalIsPassedOnAndKillsNothing) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  supervised.signal(SIGTERM);
  EXPECT_EQ(first.expect("end").name, "");

  for (const int signal : {SIGTERM, SIGINT}) {
    supervised.signal(signal);
    EXPECT_EQ(first.expect("end").name, "now");
  }
  first.kill();
  Incarnation second = supervised.next();
  EXPECT_EQ(second.introduction().end, "now");
  second.say("shutdown");
  second.order("exit", "0");

  EXPECT_EQ(supervised.exitCode(), 0);
}

// Nothing is left that could let the targets go.
TEST(SupervisorEnd, WithoutACoordinatorKillsTheTargets) {
  Kept given;
  const pid_t target = fork();
  if (target == 0)
    for (;;) pause();
  Beginning setup;
  setup.kept.keep("control", given.take());
  setup.kept.keep("restore.1.target", kj::AutoCloseFd(static_cast<int>(syscall(SYS_pidfd_open, target, 0))));
  Supervised supervised(kj::mv(setup));
  Incarnation first = begin(supervised);
  supervised.makeUnstartable();
  first.kill();
  supervised.signal(SIGTERM);

  EXPECT_EQ(supervised.exitCode(), 1);
  int status = 0;
  ASSERT_EQ(waitpid(target, &status, 0), target);
  EXPECT_TRUE(given.gone());
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST(SupervisorEnd, OrphansOfADeadCoordinatorAreReaped) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  const pid_t orphan = orphanOf(first);
  first.kill();
  Incarnation second = supervised.next();
  second.introduction();
  ASSERT_TRUE(exists(orphan));

  ::kill(orphan, SIGKILL);

  // A zombie exists until its parent has waited for it: the supervisor, now.
  await([&] { return !exists(orphan); }, "the orphan to be reaped");
  second.say("ready");
}

TEST(SupervisorEnd, OrphansThatDiedWithTheirCoordinatorAreReaped) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  const pid_t orphan = orphanOf(first);
  supervised.stop();
  ::kill(orphan, SIGKILL);
  first.kill();
  supervised.signal(SIGCONT);

  await([&] { return !exists(orphan) && !exists(first.pid()); }, "both to be reaped");
  supervised.next().introduction();
}

TEST(SupervisorEnd, OrphansThatDoNotEndAreKilled) {
  Supervised supervised;
  Incarnation first = begin(supervised);
  const pid_t orphan = orphanOf(first);
  first.kill();
  Incarnation second = supervised.next();
  second.introduction();

  supervised.signal(SIGTERM);
  second.expect("end");
  supervised.signal(SIGTERM);
  second.expect("end");
  second.say("shutdown");
  second.order("exit", "0");

  EXPECT_EQ(supervised.exitCode(), 0);
  EXPECT_FALSE(exists(orphan));
}

}  // namespace
}  // namespace faultline::test
