// A coordinator without room for an fd, and the messages of its supervisor.

#include "coordinator/supervisor_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <string>

#include "tests/support/child_process.h"

namespace faultline::coordinator {
namespace {

#ifdef FAULTLINE_SANITIZED
#define SKIP_IF_SANITIZED() GTEST_SKIP() << "the sanitizer itself needs an fd to look at memory"
#else
#define SKIP_IF_SANITIZED()
#endif

// In a child, since it is the child's limit: from now on no fd can be had.
void noMoreFds() {
  const rlimit none{0, 0};
  if (setrlimit(RLIMIT_NOFILE, &none) != 0) _exit(2);
}

// A restore whose segment is missing looks like one that was never begun, and its uffd would be closed.
TEST(Inheritance, IsWholeOrNone) {
  SKIP_IF_SANITIZED();
  test::ChildProcess child([] {
    auto io = kj::setupAsyncIo();
    auto [ours, theirs] = process::FdChannel::pair();
    SupervisorLink link(kj::mv(ours), io.unixEventPort);
    process::FdChannel supervisor(kj::mv(theirs));
    supervisor.send("fd", "restore.1.segment", 0);
    supervisor.send("start");
    noMoreFds();
    try {
      link.inherit();
    } catch (const kj::Exception& error) {
      const std::string why = error.getDescription().cStr();
      _exit(why.find("limit on open files") != std::string::npos &&
                    why.find("restore.1.segment") != std::string::npos
                ? 0
                : 1);
    }
    _exit(3);
  });
  EXPECT_EQ(child.join(), 0);
}

TEST(Inheritance, TellsWhatTheSupervisorHadNoRoomFor) {
  auto io = kj::setupAsyncIo();
  auto [ours, theirs] = process::FdChannel::pair();
  SupervisorLink link(kj::mv(ours), io.unixEventPort);
  process::FdChannel supervisor(kj::mv(theirs));
  supervisor.send("lost", "restore.1.segment");
  supervisor.send("start");
  EXPECT_EQ(link.inherit().lost.count(process::KeptName::restore(1, process::KeptName::Part::segment)), 1u);
}

// Another build's, or put there by hand: no reason not to serve what is ours.
TEST(Inheritance, TellsOfNamesThatAreNotOursAndTakesTheOthers) {
  auto io = kj::setupAsyncIo();
  auto [ours, theirs] = process::FdChannel::pair();
  SupervisorLink link(kj::mv(ours), io.unixEventPort);
  process::FdChannel supervisor(kj::mv(theirs));
  for (const char* name : {"restore.x.uffd", "stored", "restore.1.uffd", "listener.vm"})
    supervisor.send("fd", name, 0);
  supervisor.send("lost", "stored");
  supervisor.send("start");
  const Inheritance left = link.inherit();
  EXPECT_THAT(left.foreign, testing::ElementsAre("restore.x.uffd", "stored", "listener.vm"));
  EXPECT_EQ(left.fds.size(), 1u);
  EXPECT_EQ(left.names(process::KeptName::Kind::restore, process::KeptName::Part::uffd).size(), 1u);
}

// A service manager gives what it made (a socket unit's) before what it was given to keep.
TEST(Inheritance, TakesTheFirstOfAName) {
  auto io = kj::setupAsyncIo();
  auto [ours, theirs] = process::FdChannel::pair();
  SupervisorLink link(kj::mv(ours), io.unixEventPort);
  process::FdChannel supervisor(kj::mv(theirs));
  const kj::AutoCloseFd first(memfd_create("first", MFD_CLOEXEC)),
      second(memfd_create("second", MFD_CLOEXEC));
  supervisor.send("fd", "control", first.get());
  supervisor.send("fd", "control", second.get());
  supervisor.send("start");
  Inheritance left = link.inherit();
  struct stat expected {
  }, got{};
  fstat(first.get(), &expected);
  fstat(left.take(process::KeptName::service(process::KeptName::Part::control)).get(), &got);
  EXPECT_EQ(got.st_ino, expected.st_ino);
}

TEST(AcceptedConnection, ThatThereIsNoRoomForIsToldAllTheSame) {
  SKIP_IF_SANITIZED();
  test::ChildProcess child([] {
    auto io = kj::setupAsyncIo();
    auto [ours, theirs] = process::FdChannel::pair();
    SupervisorLink link(kj::mv(ours), io.unixEventPort);
    process::FdChannel supervisor(kj::mv(theirs));
    std::string told;
    auto receiving = link.receive(
        {.accepted = [&](const process::KeptName& name,
                         kj::AutoCloseFd fd) { told = name.text() + (fd.get() < 0 ? " without" : " with"); },
         .lost = [](const process::KeptName&) {},
         .end = [](bool) {}});
    supervisor.send("conn", "listener.vm.conn.1", 0);
    supervisor.send("leave");
    noMoreFds();
    const bool left = receiving.wait(io.waitScope) == SupervisorLink::End::leave;
    _exit(left && told == "listener.vm.conn.1 without" ? 0 : 1);
  });
  EXPECT_EQ(child.join(), 0);
}

}  // namespace
}  // namespace faultline::coordinator
