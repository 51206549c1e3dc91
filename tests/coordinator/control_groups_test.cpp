// The limits of memory of a process, read from trees of files as the kernel shows them.

#include "coordinator/control_groups.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/support/memory_group.h"

namespace faultline::coordinator {
namespace {

struct Tree : testing::Test {
  std::string root;
  Tree() {
    char name[] = "/tmp/faultline-groups-XXXXXX";
    root = mkdtemp(name);
  }
  ~Tree() override { std::filesystem::remove_all(root); }

  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root + file).parent_path());
    std::ofstream(root + file) << text << "\n";
  }
  ControlGroups unified(const std::string& mounted = "/") const {
    return ControlGroups(
        "31 23 0:28 / /proc rw - proc proc rw\n"
        "32 31 0:29 " +
        mounted + " " + root + " rw,relatime shared:5 - cgroup2 cgroup2 rw\n");
  }
};

TEST_F(Tree, EachGroupFromTheLowestUpIsLookedAt) {
  write("/vms/vm1/memory.max", "1000000");
  write("/vms/vm1/memory.high", "900000");
  write("/vms/vm1/memory.current", "500000");
  write("/vms/vm1/memory.stat", "anon 300000\ninactive_file 100000\nactive_file 50000");
  write("/vms/memory.max", "max");
  write("/vms/memory.high", "max");
  write("/vms/memory.current", "5000000");
  write("/memory.max", "7000000");
  write("/memory.current", "6000000");
  const auto limits = unified().memoryLimits("0::/vms/vm1\n");
  ASSERT_EQ(limits.size(), 3u);
  EXPECT_EQ(limits[0].group, root + "/vms/vm1");
  EXPECT_EQ(limits[0].file, "memory.max");
  EXPECT_EQ(limits[0].limit, 1000000u);
  EXPECT_EQ(limits[0].used, 400000u) << "without what is given back first";
  EXPECT_EQ(limits[1].file, "memory.high");
  EXPECT_EQ(limits[1].limit, 900000u);
  EXPECT_EQ(limits[2].group, root);
  EXPECT_EQ(limits[2].used, 6000000u);
}

TEST_F(Tree, ThoseOfVersion1AreLookedAt) {
  write("/a/b/memory.limit_in_bytes", "1000000");
  write("/a/b/memory.usage_in_bytes", "500000");
  write("/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 100000");
  write("/a/memory.limit_in_bytes", "9223372036854771712");
  write("/a/memory.usage_in_bytes", "500000");
  const ControlGroups groups("32 31 0:29 / " + root +
                             " rw - cgroup cgroup rw,memory\n"
                             "33 31 0:30 / /nowhere rw - cgroup cgroup rw,cpu\n");
  const auto limits = groups.memoryLimits("5:cpu:/other\n4:memory:/a/b\n0::/\n");
  ASSERT_EQ(limits.size(), 1u);
  EXPECT_EQ(limits[0].file, "memory.limit_in_bytes");
  EXPECT_EQ(limits[0].used, 400000u);
}

// In a container the mounted directory is a group further down.
TEST_F(Tree, AMountOfAPartShowsWhatIsBelowIt) {
  write("/vm1/memory.max", "1000000");
  write("/vm1/memory.current", "1");
  EXPECT_EQ(unified("/docker/17").memoryLimits("0::/docker/17/vm1\n").size(), 1u);
  EXPECT_TRUE(unified("/docker/17").memoryLimits("0::/docker/170/vm1\n").empty());
  EXPECT_TRUE(unified("/docker/17").memoryLimits("0::/vm1\n").empty());
}

TEST_F(Tree, WhatMakesNoSenseIsNoLimit) {
  write("/vm1/memory.max", "much");
  write("/vm1/memory.current", "1");
  write("/memory.max", "5");  // of which nothing says what is used
  const ControlGroups groups = unified();
  for (const char* text : {"", "0::", "nothing", "::::\n", "0::/vm1", "0::/vm1/../..", "0::/../vm1\n"})
    EXPECT_TRUE(groups.memoryLimits(text).empty()) << text;
  EXPECT_TRUE(ControlGroups("").memoryLimits("0::/vm1\n").empty());
  EXPECT_TRUE(ControlGroups("1 2\n- - -\nx - cgroup2\n").memoryLimits("0::/vm1\n").empty());
}

TEST_F(Tree, ABlankInThePathOfAMountIsRead) {
  std::filesystem::create_directories(root + "/a b/vm1");
  write("/a b/vm1/memory.max", "1000000");
  write("/a b/vm1/memory.current", "1");
  const ControlGroups groups("32 31 0:29 / " + root + "/a\\040b rw - cgroup2 cgroup2 rw\n");
  EXPECT_EQ(groups.memoryLimits("0::/vm1\n").size(), 1u);
}

// The kernel's own files, of this process.
TEST(ControlGroups, AreThoseOfTheProcess) {
  const test::MemoryGroup group;
  if (!group.made()) GTEST_SKIP() << "no control group with the memory controller can be made here";
  group.limit(4ull << 30);
  const pid_t child = fork();
  if (child == 0) {
    group.enter();
    const int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
    for (const MemoryLimit& limit : ControlGroups::here().memoryLimitsOf(self))
      if (limit.group == group.path() && limit.limit == (4ull << 30) && limit.used < (1u << 30)) _exit(0);
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace faultline::coordinator
