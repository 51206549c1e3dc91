// Messages to systemd, and fds that it gives back.

#include "supervisor/service_manager.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cli/fake_manager.h"
#include "tests/cli/supervised.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

TEST(ServiceManager, HearsWhenTheServiceIsReadyAndStopping) {
  FakeManager manager;
  Supervised supervised(under(manager));
  Incarnation only = begin(supervised);
  EXPECT_THAT(manager.next().text, HasSubstr("READY=1"));

  supervised.signal(SIGTERM);
  EXPECT_THAT(manager.next().text, HasSubstr("STOPPING=1"));
  EXPECT_THAT(manager.next().text, HasSubstr("EXTEND_TIMEOUT_USEC="));
  only.expect("end");
  only.say("progress");
  EXPECT_THAT(manager.next().text, HasSubstr("EXTEND_TIMEOUT_USEC="));
  only.say("status", "ending: 1 restore");
  EXPECT_THAT(manager.next().text, HasSubstr("STATUS=ending: 1 restore"));
  only.say("shutdown");
  only.order("exit", "0");
  EXPECT_EQ(supervised.exitCode(), 0);
}

TEST(ServiceManager, KeepsWhatTheSupervisorKeeps) {
  FakeManager manager;
  Beginning setup = under(manager);
  setup.kept.keep("control", memoryWith("the control socket"));
  Supervised supervised(kj::mv(setup));
  auto control = manager.skipTo("FDSTORE=1");
  EXPECT_THAT(control.text, HasSubstr("FDNAME=control"));
  EXPECT_THAT(control.text, HasSubstr("FDPOLL=0"));
  EXPECT_EQ(contentOf(control.fd.get()), "the control socket");

  Incarnation only = begin(supervised);
  only.say("store", "restore.1.uffd", memoryWith("a uffd").get());
  auto stored = manager.skipTo("FDSTORE=1");
  EXPECT_THAT(stored.text, HasSubstr("FDNAME=restore.1.uffd"));
  EXPECT_EQ(contentOf(stored.fd.get()), "a uffd");

  only.say("drop", "restore.1.uffd");
  EXPECT_THAT(manager.next().text, HasSubstr("FDSTOREREMOVE=1\nFDNAME=restore.1.uffd"));
}

TEST(ServiceManager, KeepsOneFdAName) {
  FakeManager manager;
  Supervised supervised(under(manager));
  Incarnation only = begin(supervised);
  for (const char* content : {"old", "new"}) {
    only.say("store", "shard.0.channel", memoryWith(content).get());
    EXPECT_EQ(contentOf(manager.skipTo("FDNAME=shard.0.channel").fd.get()), content);
  }
  // The new one is there before the old one goes: a supervisor may be killed in between.
  EXPECT_EQ(manager.next().text, "FDSTOREREMOVE=1\nFDNAME=shard.0.channel");
}

// It keeps none of an open file description that it has already, and says nothing of that.
TEST(ServiceManager, KeepsWhatHasTwoNamesOnce) {
  FakeManager manager;
  Supervised supervised(under(manager));
  Incarnation only = begin(supervised);
  const kj::AutoCloseFd source = memoryWith("a source");
  only.say("store", "listener.vm.source.0", source.get());
  EXPECT_THAT(manager.skipTo("FDSTORE=1").text, HasSubstr("FDNAME=listener.vm.source.0"));
  only.say("store", "restore.1.source.0", source.get());
  EXPECT_THAT(manager.next().text, HasSubstr("FDNAME=names.1"));
  only.say("drop", "listener.vm.source.0");
  only.say("drop", "restore.1.source.0");
  EXPECT_EQ(manager.next().text, "FDSTOREREMOVE=1\nFDNAME=listener.vm.source.0");
}

TEST(ServiceManager, ForgetsEverythingAtAnOrderlyEnd) {
  FakeManager manager;
  Beginning setup = under(manager);
  setup.kept.keep("control", memoryWith("x"));
  Supervised supervised(kj::mv(setup));
  Incarnation only = begin(supervised);
  manager.skipTo("READY=1");
  only.say("shutdown");
  only.order("exit", "0");

  EXPECT_THAT(manager.skipTo("FDSTOREREMOVE=1").text, HasSubstr("FDNAME=control"));
  EXPECT_EQ(supervised.exitCode(), 0);
}

TEST(ServiceManager, SeesThatTheSupervisorIsAlive) {
  FakeManager manager;
  Beginning setup;
  setup.inChild = [path = manager.path()] {
    setenv("NOTIFY_SOCKET", path.c_str(), 1);
    setenv("WATCHDOG_USEC", "20000", 1);
    unsetenv("WATCHDOG_PID");
  };
  Supervised supervised(kj::mv(setup));
  begin(supervised);
  for (int beats = 0; beats < 5; beats++) manager.skipTo("WATCHDOG=1");
}

// In a process of its own: its fds 3 and 4 are what the service manager gives.
TEST(ServiceManager, GivesBackByName) {
  const pid_t child = fork();
  if (child == 0) {
    kj::AutoCloseFd control = memoryWith("the control socket"), uffd = memoryWith("a uffd");
    const int high = fcntl(uffd.get(), F_DUPFD, 10);
    dup2(fcntl(control.get(), F_DUPFD, 10), 3);
    dup2(high, 4);
    setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
    setenv("LISTEN_FDS", "2", 1);
    setenv("LISTEN_FDNAMES", "control:restore.1.uffd", 1);
    supervisor::FdStore kept;
    supervisor::ServiceManager manager;
    manager.giveBack(kept);
    const bool right =
        kept.entries().size() == 2 && contentOf(kept.find("control")->get()) == "the control socket" &&
        contentOf(kept.find("restore.1.uffd")->get()) == "a uffd" && (fcntl(3, F_GETFD) & FD_CLOEXEC) != 0;
    _exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// A supervisor that is given everything back sends nothing of it again, and knows each name of what has
// several.
TEST(ServiceManager, IsNotSentWhatItHasGiven) {
  FakeManager manager;
  supervisor::StoredNames names;
  names.found("listener.vm.source.0");
  names.put("restore.1.source.0", "listener.vm.source.0");
  const int index = names.takeFresh();
  ASSERT_GE(index, 0);
  Beginning setup;
  setup.given = [index] {
    const kj::AutoCloseFd source = memoryWith("a source"), control = memoryWith("the unit's"),
                          stale = memoryWith("stored before");
    std::vector<int> high;
    for (const int fd : {control.get(), index, source.get(), stale.get()})
      high.push_back(fcntl(fd, F_DUPFD, 100));
    for (int i = 0; i < 4; i++) dup2(high[static_cast<std::size_t>(i)], 3 + i);
    return "control:names.1:listener.vm.source.0:control";
  };
  setup.inChild = [path = manager.path()] { setenv("NOTIFY_SOCKET", path.c_str(), 1); };
  Supervised supervised(kj::mv(setup));
  // What a socket unit makes comes first, and what was stored of that name is of no use any more.
  EXPECT_EQ(manager.next().text, "FDSTOREREMOVE=1\nFDNAME=control");
  Incarnation only = supervised.next();
  auto told = only.introduction();
  EXPECT_TRUE(told.managed);
  EXPECT_THAT(told.names,
              testing::UnorderedElementsAre("control", "restore.1.source.0", "listener.vm.source.0"));
  EXPECT_EQ(contentOf(told.fds["control"].get()), "the unit's");
  EXPECT_EQ(contentOf(told.fds["restore.1.source.0"].get()), "a source");
  only.say("ready");
  EXPECT_EQ(manager.next().text, "READY=1");
}

}  // namespace
}  // namespace faultline::test
