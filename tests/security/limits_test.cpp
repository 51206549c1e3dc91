// A peer that is not to be served, or a request that is too large, is refused with a message; the restores
// that run notice nothing.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <latch>
#include <sstream>
#include <thread>

#include "client/faultline_client.h"
#include "process/process.h"
#include "rpc/connection.h"
#include "tests/cli/command.h"
#include "tests/support/child_process.h"
#include "tests/support/raw_vmm.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::uint64_t PAGES = 64;
constexpr uid_t NOBODY = 65534;

enum class Expect { served, refused };

// In a child of another user: connects, and reads a page or waits for the server to hang up. 0: as expected.
int touchAs(uid_t uid, const std::string& socket, Expect expected) {
  return test::ChildProcess([&] {
           // Before privileges go: who may have a userfaultfd is another question.
           const faultline_region region{4096, 0, 4096};
           faultline_target* target = nullptr;
           char why[256];
           if (faultline_target_open(&region, 1, 0, &target, why, sizeof why) != 0) _exit(2);
           if (setuid(uid) != 0) _exit(2);
           const int connected = faultline_target_connect(target, socket.c_str(), 5000, why, sizeof why);
           // A peer that is refused for its uid may be told so before it has sent anything.
           if (expected == Expect::refused && (connected == -EPIPE || connected == -ECONNRESET)) _exit(0);
           if (connected != 0) _exit(2);
           if (expected == Expect::refused) _exit(faultline_target_wait_peer(target, -1) == 0 ? 0 : 1);
           const auto* page = static_cast<volatile unsigned char*>(faultline_target_address(target, 0));
           (void)*page;
           _exit(0);
         })
      .join();
}

TEST(OtherUsers, AreRefusedUnlessTheOperatorLetsThemIn) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  Image image(PAGES * 4096);
  for (const bool any : {false, true}) {
    ServerOptions options;
    if (any) options.more = {"--any-user"};
    Server server(image, options);
    const Target running(image, server.socket(), 4096);
    server.restore();
    // The socket's mode keeps other users out; where an operator has opened it, the uid is still looked at.
    ASSERT_EQ(chmod(image.directory().c_str(), 0755), 0);
    ASSERT_EQ(chmod(server.socket().c_str(), 0666), 0);
    EXPECT_EQ(touchAs(NOBODY, server.socket(), any ? Expect::served : Expect::refused), 0);
    EXPECT_TRUE(running.holdsImage(1));
  }
}

TEST(Restores, BeyondTheLimitAreRefusedAndOthersRunOn) {
  Image image(PAGES * 4096);
  Server server(image, {.more = {"--max-restores", "1"}});
  const Target first(image, server.socket(), 4096);
  server.restore(0);
  {
    const faultline_region region{4096, 0, 4096};
    faultline_target* second = nullptr;
    char why[256];
    ASSERT_EQ(faultline_target_open(&region, 1, 0, &second, why, sizeof why), 0) << why;
    ASSERT_EQ(faultline_target_connect(second, server.socket().c_str(), 5000, why, sizeof why), 0) << why;
    EXPECT_EQ(faultline_target_wait_peer(second, -1), 0);
    faultline_target_close(second);
  }
  EXPECT_TRUE(first.holdsImage(0));
  // Its place is free again once it is over.
  auto detach = server.restore(0).detachRequest();
  detach.setForce(true);
  server.wait(detach.send());
  const Target third(image, server.socket(), 4096);
  await([&] { return server.status().getRestores().size() == 1; });
  EXPECT_TRUE(third.holdsImage(5));
}

std::size_t openFilesOf(pid_t pid) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& fd :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd"))
    count++;
  return count;
}

// The use that a process makes of the machine.
struct Holdings {
  std::size_t files = 0, threads = 0, mappings = 0;
  std::uint64_t memory = 0;  // private and resident, KiB

  static Holdings of(pid_t pid) {
    const std::string proc = "/proc/" + std::to_string(pid);
    Holdings holdings;
    holdings.files = openFilesOf(pid);
    const std::string maps = textOf(proc + "/maps");
    holdings.mappings = static_cast<std::size_t>(std::count(maps.begin(), maps.end(), '\n'));
    std::istringstream status(textOf(proc + "/status"));
    for (std::string word; status >> word;) {
      if (word == "Threads:") status >> holdings.threads;
      if (word == "RssAnon:") status >> holdings.memory;
    }
    return holdings;
  }
};

// Two hundred at once leave a coordinator with the files, threads and mappings that it had, and with its memory; half
// as much again, and 2 MiB, are the allocator's.
TEST(Restores, LeaveNothingBehind) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer keeps memory that was freed";
#endif
  const Image image(PAGES * 4096);
  Server server(image);
  std::vector<std::unique_ptr<Target>> targets;
  const auto serve = [&](unsigned count) {
    for (unsigned i = 0; i < count; i++)
      targets.push_back(std::make_unique<Target>(image, server.socket(), 4096));
    for (auto& target : targets) ASSERT_TRUE(target->holdsImage(7));
    await([&] { return server.status().getRestores().size() == count; });
    targets.clear();
    await([&] { return server.status().getRestores().size() == 0; });
  };
  const pid_t coordinator = server.coordinatorPid();
  serve(8);
  const Holdings before = Holdings::of(coordinator);
  serve(200);
  const auto left = [&] { return Holdings::of(coordinator); };
  await([&] { return left().files <= before.files && left().threads <= before.threads; });
  await([&] { return left().mappings <= before.mappings + 64; });  // those of the allocator's arenas
  await([&] { return left().memory <= before.memory + before.memory / 2 + 2048; });
  EXPECT_EQ(server.coordinatorPid(), coordinator);
}

// A target that gives memory back as fast as it can delays others by no more than its own turn.
TEST(RemovalFloods, StopNobodyElse) {
  Image image(PAGES * 4096);
  Server server(image);
  Target flooding(image, server.socket(), 4096);
  server.restore(0);
  Target other(image, server.socket(), 4096);
  server.restore(1);
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> removals{0};
  constexpr unsigned FLOODS = 8;
  std::latch all(FLOODS);
  std::vector<std::thread> floods;
  for (unsigned i = 0; i < FLOODS; i++)
    floods.emplace_back([&, i] {
      flooding.giveBack(i * 8, 8);
      all.count_down();
      for (; !over; removals++) flooding.giveBack(i * 8, 8);
    });
  all.wait();
  await([&] { return removals >= 100; });
  for (std::uint64_t page = 0; page < PAGES; page++) EXPECT_TRUE(other.holdsImage(page)) << page;
  const std::uint64_t before = removals;
  await([&] { return removals > before; });
  over = true;
  for (std::thread& flood : floods) flood.join();
  EXPECT_TRUE(flooding.isAll(0, 0));
}

// Lowers a limit of a process that runs.
void limit(pid_t pid, __rlimit_resource resource, rlim_t to) {
  const rlimit both{to, to};
  ASSERT_EQ(prlimit(pid, resource, &both, nullptr), 0) << strerror(errno);
}

// Connections that say nothing take all the fds that the supervisor has for connections: a further target has
// to wait, and is served once there are fds again. A running restore needs no further fds, and one that
// begins has its reserve.
TEST(OpenFiles, WhereTheyRunOutTargetsWaitAndRestoresRunOn) {
  Image image(PAGES * 4096);
  const std::string log = image.directory() + "/log";
  Server server(image, {.more = {"--handshake-timeout-ms", "60000"}, .logFile = log});
  const Target running(image, server.socket(), 4096);
  server.restore(0);
  EXPECT_TRUE(running.holdsImage(0));
  RawVmm early({PAGES * 4096});
  const std::size_t none = openFilesOf(server.supervisor());
  early.connect(server.socket());
  await([&] { return openFilesOf(server.supervisor()) > none; });
  limit(server.supervisor(), RLIMIT_NOFILE, none + 160);
  auto saidSo = [&] {
    return textOf(log).find("targets have to wait: Too many open files") != std::string::npos;
  };
  std::vector<kj::AutoCloseFd> silent;
  while (!saidSo()) {
    const std::size_t before = openFilesOf(server.supervisor());
    silent.push_back(rpc::connectTo(server.socket()));
    await([&] { return saidSo() || openFilesOf(server.supervisor()) > before; });
  }
  EXPECT_THAT(textOf(log), HasSubstr("raise the limit on open files"));
  EXPECT_GT(silent.size(), 1u);
  early.send(early.body(), {early.uffd()});
  await([&] { return server.status().getRestores().size() == 2; });
  EXPECT_EQ(*early.at(0), image.at(0));
  EXPECT_THAT(textOf(log), Not(HasSubstr("cannot be kept")));
  for (std::uint64_t page = 1; page < PAGES; page++) EXPECT_TRUE(running.holdsImage(page)) << page;
  Target late(image, server.socket(), 4096);
  silent.clear();
  for (std::uint64_t page = 0; page < PAGES; page++) EXPECT_TRUE(late.holdsImage(page)) << page;
}

// Memory is locked up to the limit, so the next target would be one too many.
TEST(LockableMemory, WhereItRunsOutRestoresRunOn) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer makes mlock() do nothing";
#endif
  rlimit now{};
  getrlimit(RLIMIT_MEMLOCK, &now);
  if (now.rlim_cur < (4u << 20))
    GTEST_SKIP() << "needs 4 MiB that may be locked without CAP_IPC_LOCK; ulimit -l says " << now.rlim_cur;
  Image image(PAGES * 4096);
  const std::string log = image.directory() + "/log";
  Server server(image, {.logFile = log, .before = [] {
                          if (geteuid() == 0 && prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK) != 0) _exit(126);
                        }});
  const Target running(image, server.socket(), 4096);
  server.restore(0);
  EXPECT_TRUE(running.holdsImage(0));
  limit(server.coordinatorPid(), RLIMIT_MEMLOCK, 65536);
  const Target refused(image, server.socket(), 4096);
  await([&] { return textOf(log).find("a target is refused") != std::string::npos; });
  EXPECT_THAT(textOf(log),
              AllOf(HasSubstr("cannot lock"), HasSubstr("RLIMIT_MEMLOCK is 65536 bytes: raise it")));
  for (std::uint64_t page = 1; page < PAGES; page++) EXPECT_TRUE(running.holdsImage(page)) << page;
  EXPECT_EQ(server.status().getRestores().size(), 1u);
}

// A successor that may lock less than its predecessor had locked: it must not read into memory that is not resident.
TEST(LockableMemory, WhereASuccessorHasTooLittleItsRestoresFailLoudly) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer makes mlock() do nothing";
#endif
  Image image(PAGES * 4096);
  Server server(image, {.before = [] {
                  if (geteuid() == 0 && prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK) != 0) _exit(126);
                }});
  const Target target(image, server.socket(), 4096);
  server.restore(0);
  EXPECT_TRUE(target.holdsImage(0));
  limit(server.supervisor(), RLIMIT_MEMLOCK, 65536);
  kill(server.coordinatorPid(), SIGKILL);
  EXPECT_EQ(target.touch(1), Touch::sigbus);
  EXPECT_TRUE(target.holdsImage(0));
  server.reconnect();
  EXPECT_NE(server.eventWith({"restore vm has failed", "cannot lock", "RLIMIT_MEMLOCK is 65536"}), "");
}

// A service that may lock next to nothing: its targets are refused, and it says what it needs.
TEST(LockableMemory, TooLittleIsNamedAndTheTargetRefused) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer makes mlock() do nothing";
#endif
  if (access("/usr/bin/setpriv", X_OK) != 0 || geteuid() != 0) GTEST_SKIP() << "needs root and setpriv";
  const Directory directory;
  const std::string image = directory.image(1);
  Command server({"--memlock=65536:65536", "/usr/bin/setpriv", "--bounding-set=-ipc_lock",
                  process::siblingExecutable("faultline"), "serve", "--control", directory / "control",
                  "--socket", directory / "socket", "--memory", image},
                 "/usr/bin/prlimit");
  server.await("serving; control socket");
  Command target({"--socket", directory / "socket", "--image", image, "--timeout", "2"}, "faultline-target");
  server.await("RLIMIT_MEMLOCK");
  EXPECT_NE(target.finish().code, 0);
  server.signal(SIGTERM);
  EXPECT_THAT(server.finish().err, AllOf(HasSubstr("a target is refused"), HasSubstr("65536")));
}

// Peers that may use the control socket say what is no call, half of one, or nothing, and stay. Others are answered.
TEST(ControlSocket, IsNotHeldUpByWhatIsNoCall) {
  const Image image(PAGES * 4096);
  Server server(image);
  const Target target(image, server.socket(), 4096);
  server.restore();
  std::vector<kj::AutoCloseFd> peers;
  for (const std::string& text :
       {std::string(), std::string("GET / HTTP/1.1\r\n\r\n"), std::string(4096, '\xff'),
        std::string(4096, '\0'), std::string("\0\0\0\0\x10\0\0\0 a half", 15),
        std::string("\xff\xff\xff\x7f", 4)})
    for (unsigned i = 0; i < 8; i++) {
      peers.push_back(rpc::connectTo(server.control()));
      send(peers.back().get(), text.data(), text.size(), MSG_NOSIGNAL);
    }
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 1u);
  for (std::uint64_t page = 0; page < PAGES; page++) EXPECT_TRUE(target.holdsImage(page)) << page;
}

// Peers that may use the control socket take every fd that the coordinator may open. When they have gone, it is back.
TEST(ControlSocket, IsBackWhenFilesCanBeOpenedAgain) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP()
      << "UBSan looks at an object's type through a pipe, and finds it wrong where none can be opened";
#endif
  constexpr std::size_t FILES = 256;
  const Image image(PAGES * 4096);
  Server server(image, {.before = [] {
                  const rlimit few{FILES, FILES};
                  if (setrlimit(RLIMIT_NOFILE, &few) != 0) _exit(1);
                }});
  const std::string open = "/proc/" + std::to_string(server.coordinatorPid()) + "/fd";
  const auto files = [&] {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(open), std::filesystem::directory_iterator()));
  };
  {
    std::vector<kj::AutoCloseFd> peers;
    for (std::size_t i = 0; i < FILES; i++) peers.push_back(rpc::connectTo(server.control()));
    await([&] { return files() >= FILES; });
  }
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 1u);
}

}  // namespace
}  // namespace faultline::test
