// Fds and rights of a running shard, coordinator and supervisor, as the kernel says.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

namespace fs = std::filesystem;

fs::path processOf(pid_t pid) {
  return fs::path("/proc") / std::to_string(pid);
}

std::vector<std::string> fdsOf(pid_t pid) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(processOf(pid) / "fd")) {
    std::error_code closed;
    names.push_back(fs::read_symlink(entry.path(), closed).string());
  }
  return names;
}

std::size_t uffdsOf(pid_t pid) {
  const auto names = fdsOf(pid);
  return static_cast<std::size_t>(std::count(names.begin(), names.end(), "anon_inode:[userfaultfd]"));
}

TEST(ShardProcess, EveryThreadOfItIsFilteredAndGainsNoPrivileges) {
#ifdef FAULTLINE_SANITIZED
  GTEST_SKIP() << "a build with sanitizers has no filter";
#endif
  Image image(64 * 4096);
  Server server(image);
  const Target target(image, server.socket(), 4096);
  server.restore();
  ASSERT_TRUE(target.holdsImage(0));
  unsigned threads = 0;
  for (const auto& thread : fs::directory_iterator(processOf(server.shardPid(0)) / "task")) {
    const std::string status = textOf(thread.path() / "status");
    EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1\n"));
    EXPECT_THAT(status, HasSubstr("Seccomp:\t2\n"));
    for (const char* set : {"CapEff", "CapPrm", "CapInh", "CapAmb"})
      EXPECT_THAT(status, HasSubstr(std::string(set) + ":\t0000000000000000\n"));
    threads++;
  }
  EXPECT_GE(threads, 2u);
}

TEST(Processes, LeaveNoCoreDump) {
  Image image(64 * 4096);
  Server server(image);
  for (const pid_t pid : {server.supervisor(), server.coordinatorPid(), server.shardPid(0)}) {
    const std::string limits = textOf(processOf(pid) / "limits");
    const std::string core = limits.substr(limits.find("Max core file size"), 60);
    EXPECT_THAT(core, HasSubstr("  0  ")) << core;
  }
}

TEST(ShardProcess, HoldsOfARestoreNothingOnceThatIsOver) {
  Image image(64 * 4096);
  Server server(image);
  const pid_t shard = server.shardPid(0);
  const std::size_t before = fdsOf(shard).size();
  const Target first(image, server.socket(), 4096);
  server.restore(0);
  const Target second(image, server.socket(), 4096);
  server.restore(1);
  EXPECT_EQ(uffdsOf(shard), 2u);
  for (const unsigned n : {0u, 1u}) {
    auto detach = server.restore(n).detachRequest();
    detach.setForce(true);
    server.wait(detach.send());
  }
  await([&] { return fdsOf(shard).size() <= before; });
  EXPECT_EQ(uffdsOf(shard), 0u);
}

// A shard has nothing but its channel: no fd of the process that starts the service, none of supervisor or
// coordinator.
TEST(ShardProcess, InheritsNothing) {
  Image image(64 * 4096);
  const int leaked = open(image.path().c_str(), O_RDONLY);  // without O_CLOEXEC
  ASSERT_GE(leaked, 0);
  Server server(image);
  for (const unsigned shard : {0u, 1u})
    for (const std::string& name : fdsOf(server.shardPid(shard))) {
      EXPECT_EQ(name.find(image.path()), std::string::npos) << name;
      EXPECT_EQ(name.find("userfaultfd"), std::string::npos) << name;
      EXPECT_EQ(name.find("memfd:faultline-listener"), std::string::npos) << name;
    }
  close(leaked);
}

TEST(Sockets, AreTheOwnersAlone) {
  Image image(64 * 4096);
  Server server(image);
  for (const std::string& path : {server.socket(), server.control()}) {
    struct stat status {};
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u) << path;
    EXPECT_EQ(status.st_uid, geteuid()) << path;
  }
}

}  // namespace
}  // namespace faultline::test
