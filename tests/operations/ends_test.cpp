// Whatever ends the service, what a target misses is fetched first, or is an error to it: never zeros, never
// a wait without end.

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>

#include "rpc/connection.h"
#include "tests/recovery/recovery_test.h"
#include "tests/recovery/segment_bytes.h"
#include "tests/support/child_process.h"

namespace faultline::test {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

enum class How { sigterm, sigint, sighup, shutdown, coordinatorSignalled, supervisorKilled };

// The end as a target in a process of its own sees it: it touches page 0, and everything once the service has ended.
enum Saw { ALL_RIGHT = 10, SOME_ERRORS = 11, WRONG_BYTES = 12, NOTHING = 13 };

class Ends : public testing::Test {
 protected:
  void begin(std::vector<std::string> more = {}, const std::string& stopLimit = "60") {
    more.insert(more.end(), {"--stop-limit-s", stopLimit});
    server_ = std::make_unique<Server>(image_, ServerOptions{.more = more, .logFile = log()});
    target_ = std::make_unique<ChildProcess>([this, socket = server_->socket()] {
      const Target target(image_, socket, SMALL);
      if (!target.holdsImage(0)) _exit(NOTHING);
      ready_.send();
      go_.wait();
      // Whatever has become of the others: that page was there.
      if (target.touch(0) == Touch::sigbus) _exit(WRONG_BYTES);
      bool errors = false;
      for (std::uint64_t page = 0; page < target.pages(); page++) {
        if (target.touch(page) == Touch::sigbus)
          errors = true;
        else if (!target.holdsImage(page))
          _exit(WRONG_BYTES);
      }
      _exit(errors ? SOME_ERRORS : ALL_RIGHT);
    });
    ready_.wait();
    server_->restore();
  }
  std::string log() const { return image_.directory() + "/log"; }

  void end(How how) {
    const pid_t supervisor = server_->supervisor(), coordinator = server_->coordinatorPid();
    switch (how) {
      case How::sigterm:
        return endBy(supervisor, SIGTERM);
      case How::sigint:
        return endBy(supervisor, SIGINT);
      case How::sighup:
        return endBy(supervisor, SIGHUP);
      case How::coordinatorSignalled:
        kill(coordinator, SIGTERM);
        return ended();
      case How::shutdown: {
        auto request = server_->client().coordinator().shutdownRequest();
        request.setForce(true);
        server_->wait(request.send());
        return ended();
      }
      case How::supervisorKilled:
        kill(supervisor, SIGKILL);
        return await([&] { return kill(coordinator, 0) != 0; });
    }
  }
  void endBy(pid_t pid, int signal) {
    kill(pid, signal);
    ended();
  }
  // The supervisor is left a zombie for the server's own end.
  void ended() {
    siginfo_t info{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(server_->supervisor()), &info, WEXITED | WNOWAIT), 0);
    EXPECT_EQ(info.si_code, CLD_EXITED);
    EXPECT_EQ(info.si_status, 0);
  }
  // The next coordinator does not believe the restore's segment.
  void lose() {
    SegmentBytes bytes(*server_);
    bytes[0] ^= 0xff;
    kill(server_->coordinatorPid(), SIGKILL);
    server_->reconnect();
    await([&] { return !server_->eventWith({"cannot be taken over"}).empty(); });
  }
  int seen() {
    go_.send();
    return target_->join();
  }

  Image image_{PAGES * SMALL};
  Signal ready_, go_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<ChildProcess> target_;
};

class EndsIn : public Ends, public testing::WithParamInterface<How> {};
INSTANTIATE_TEST_SUITE_P(Ways, EndsIn,
                         testing::Values(How::sigterm, How::sigint, How::sighup, How::shutdown,
                                         How::coordinatorSignalled));

TEST_P(EndsIn, WhatIsMissingIsFetchedFirst) {
  begin();
  end(GetParam());
  EXPECT_EQ(seen(), ALL_RIGHT);
}

TEST_P(EndsIn, WhatCannotBeFetchedIsAnError) {
  begin();
  image_.truncate(PAGES / 2 * SMALL);
  end(GetParam());
  EXPECT_EQ(seen(), SOME_ERRORS);
  EXPECT_THAT(textOf(log()),
              AllOf(HasSubstr("error: restore vm: " + std::to_string(PAGES / 2) + " pages could not be"),
                    HasSubstr("SIGBUS")));
}

TEST_P(EndsIn, WhatCannotBeFetchedKillsWhereThatIsWanted) {
  begin({"--on-lost", "kill"});
  image_.truncate(PAGES / 2 * SMALL);
  end(GetParam());
  EXPECT_EQ(seen(), 128 + SIGKILL);
  EXPECT_THAT(textOf(log()), HasSubstr("its target is killed"));
}

// Which pages it misses nothing tells: each that is not in place.
TEST_P(EndsIn, WhatARestoreMissesThatCouldNotBeTakenOverIsAnError) {
  begin();
  lose();
  end(GetParam());
  EXPECT_EQ(seen(), SOME_ERRORS);
  EXPECT_THAT(textOf(log()), AllOf(ContainsRegex("error: restore [0-9]+, which could not be taken over: " +
                                                 std::to_string(PAGES - 1) + " pages are not in place"),
                                   HasSubstr("SIGBUS")));
}

// What it says of itself cannot be believed; the listener that it came by has the same policy.
TEST_F(Ends, ARestoreThatCannotBeTakenOverIsKilledWhereThatIsWanted) {
  begin({"--on-lost", "kill"});
  lose();
  EXPECT_EQ(target_->join(), 128 + SIGKILL);
  EXPECT_THAT(textOf(log()), HasSubstr("its target is killed, as --on-lost kill wants it"));
}

// No service manager is there to start another.
TEST_F(Ends, WhatIsMissingIsFetchedWhereTheSupervisorIsKilled) {
  begin();
  const std::vector<std::string> files = {server_->socket(), server_->control()};
  end(How::supervisorKilled);
  EXPECT_EQ(seen(), ALL_RIGHT);
  for (const std::string& file : files) unlink(file.c_str());
}

// The first has it fetch; the second must not have it leave zeros.
TEST_F(Ends, TheSecondSignalFetchesNoMore) {
  begin();
  auto barrier = server_->barrier(EXTENT, rpc::FaultPoint::BEFORE_COPY);
  kill(server_->supervisor(), SIGTERM);
  server_->wait(barrier.waitHeldRequest().send());
  endBy(server_->supervisor(), SIGINT);
  const int saw = seen();
  EXPECT_TRUE(saw == SOME_ERRORS || saw == ALL_RIGHT) << saw;
}

// A source that does not answer: here a shard that stands still before it copies a page.
TEST_F(Ends, TheOperatorsLimitEndsTheFetching) {
  begin({}, "1");
  auto barrier = server_->barrier(EXTENT, rpc::FaultPoint::BEFORE_COPY);
  end(How::sigterm);
  EXPECT_EQ(seen(), SOME_ERRORS);
  EXPECT_THAT(textOf(log()), AllOf(HasSubstr("--stop-limit-s"), HasSubstr("gets SIGBUS on them")));
}

TEST_F(Ends, ACoordinatorThatDiesMeanwhileIsReplacedAndTheEndGoesOn) {
  begin();
  auto barrier = server_->barrier(EXTENT, rpc::FaultPoint::BEFORE_COPY);
  kill(server_->supervisor(), SIGTERM);
  server_->wait(barrier.waitHeldRequest().send());
  kill(server_->coordinatorPid(), SIGKILL);
  ended();
  EXPECT_EQ(seen(), ALL_RIGHT);
}

TEST_F(Ends, NewTargetsAreRefused) {
  begin();
  auto barrier = server_->barrier(EXTENT, rpc::FaultPoint::BEFORE_COPY);
  kill(server_->supervisor(), SIGTERM);
  server_->wait(barrier.waitHeldRequest().send());
  // Waits until the supervisor has closed the socket.
  await([&] {
    try {
      rpc::connectTo(server_->socket());
      return false;
    } catch (const kj::Exception&) {
      return true;
    }
  });
  server_->wait(barrier.releaseRequest().send());
  ended();
  EXPECT_EQ(seen(), ALL_RIGHT);
}

TEST_F(Ends, OneThatIsDetachedByForceGetsErrors) {
  begin();
  auto detach = server_->restore().detachRequest();
  detach.setForce(true);
  server_->wait(detach.send());
  EXPECT_EQ(seen(), SOME_ERRORS);
}

}  // namespace
}  // namespace faultline::test
