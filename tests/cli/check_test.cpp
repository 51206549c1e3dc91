// `faultline check` where a thing is really taken away: by limits, a seccomp filter, mounts and users.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "cli/errors.h"
#include "process/process.h"
#include "tests/cli/command.h"
#include "tests/support/child_process.h"
#include "tests/support/fuse_file.h"
#include "tests/support/server.h"
#include "uffd/uffd.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uid_t NOBODY = 65534;
constexpr int CANNOT = 99;  // the child could not take the thing away

#ifndef SO_PEERPIDFD
constexpr int SO_PEERPIDFD = 77;  // Linux 6.5 and later
#endif

struct Checked {
  int code = -1;
  json findings;

  json of(const std::string& what) const {
    for (const json& finding : findings)
      if (finding["what"] == what) return finding;
    return {{"state", "not said"}, {"text", ""}};
  }
  std::string state(const std::string& what) const { return of(what)["state"]; }
  std::string text(const std::string& what) const { return of(what)["text"]; }
};

// `faultline check --json` in a process of which `before` has taken something away.
Checked check(
    std::vector<std::string> arguments, const std::function<void()>& before = [] {}) {
  const Directory directory;
  const std::string out = directory / "out", program = process::siblingExecutable("faultline");
  arguments.insert(arguments.begin(), {"faultline", "check", "--json"});
  ChildProcess child([&] {
    // By fds: another user may not come by their paths.
    const int image = open(program.c_str(), O_PATH | O_CLOEXEC);
    const int to = open(out.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (image < 0 || dup2(to, STDOUT_FILENO) < 0) _exit(CANNOT);
    before();
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    syscall(SYS_execveat, image, "", argv.data(), environ, AT_EMPTY_PATH);
    _exit(CANNOT);
  });
  Checked checked;
  checked.code = child.join();
  checked.findings = json::parse(textOf(out), nullptr, false);
  return checked;
}

void require(bool done) {
  if (!done) _exit(CANNOT);
}

struct Without {
  int call;
  int error;
  std::vector<scmp_arg_cmp> where = {};
};

// Fails the calls, as the filter of a container would.
void filter(const std::vector<Without>& calls) {
  const scmp_filter_ctx context = seccomp_init(SCMP_ACT_ALLOW);
  for (const Without& each : calls)
    require(seccomp_rule_add_array(context, SCMP_ACT_ERRNO(static_cast<std::uint16_t>(each.error)), each.call,
                                   static_cast<unsigned>(each.where.size()), each.where.data()) == 0);
  require(seccomp_load(context) == 0);
}

Without ioctlOf(unsigned long request) {
  return {SCMP_SYS(ioctl), EINVAL, {SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, request)}};
}

bool canMount() {
  return ChildProcess([] { _exit(unshare(CLONE_NEWNS) == 0 ? 0 : 1); }).join() == 0;
}

void ownMounts() {
  require(unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
}

TEST(Check, SaysWhatItLooksAtAndEndsWithThreeWhereSomethingIsMissing) {
  const Checked checked = check({});
  ASSERT_TRUE(checked.findings.is_array());
  bool missing = false;
  std::vector<std::string> names;
  for (const json& finding : checked.findings) {
    names.push_back(finding["what"]);
    missing |= finding["state"] == "missing";
  }
  EXPECT_THAT(names, ::testing::ElementsAre("userfaultfd", "uffd-populate", "uffd-remove", "uffd-poison",
                                            "uffd-hugetlb", "uffd-shmem", "uffd-wp", "uffd-minor", "io_uring",
                                            "pidfd", "seccomp", "memlock", "files", "fd-store", "hugetlb"));
  EXPECT_EQ(checked.code, missing ? cli::ENVIRONMENT : cli::OK);
}

TEST(Check, TellsPeopleTheSame) {
  const auto result = run({"check"});
  EXPECT_THAT(result.out, AllOf(HasSubstr("userfaultfd"), HasSubstr("io_uring"), HasSubstr("memlock")));
}

TEST(Check, LockedMemoryIsCountedForTheRestoresThatArePlanned) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to give up CAP_IPC_LOCK";
  const auto take = [] {
    const rlimit limit{8 << 20, 8 << 20};
    require(setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK) == 0);
  };
  EXPECT_EQ(check({"--restores", "2"}, take).state("memlock"), "ok");
  const Checked many = check({"--restores", "200", "--size", "8G"}, take);
  EXPECT_EQ(many.state("memlock"), "missing");
  EXPECT_THAT(many.text("memlock"), AllOf(HasSubstr("8.0 MiB may be locked"), HasSubstr("ulimit -l")));
  EXPECT_EQ(many.code, cli::ENVIRONMENT);
  EXPECT_EQ(check({"--restores", "200", "--size", "8G"},
                  [] {
                    const rlimit limit{8 << 20, 8 << 20};
                    require(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
                  })
                .state("memlock"),
            "ok")
      << "the capability is as good";
}

TEST(Check, OpenFilesAreCountedForTheRestoresThatArePlanned) {
  const auto take = [] {
    const rlimit limit{256, 256};
    require(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  };
  EXPECT_EQ(check({"--restores", "5"}, take).state("files"), "ok");
  const Checked many = check({"--restores", "200"}, take);
  EXPECT_EQ(many.state("files"), "missing");
  EXPECT_THAT(many.text("files"), AllOf(HasSubstr("256 may be open"), HasSubstr("LimitNOFILE=")));
  EXPECT_EQ(many.code, cli::ENVIRONMENT);
}

TEST(Check, CallsThatAFilterTakesAwayAreDegradedOrMissing) {
  const Checked ring = check({}, [] { filter({{SCMP_SYS(io_uring_setup), EPERM}}); });
  EXPECT_EQ(ring.state("io_uring"), "degraded");
  EXPECT_THAT(ring.text("io_uring"), HasSubstr("kernel.io_uring_disabled"));

  const Checked pidfd = check({}, [] { filter({{SCMP_SYS(pidfd_open), ENOSYS}}); });
  EXPECT_EQ(pidfd.state("pidfd"), "missing");
  EXPECT_EQ(pidfd.code, cli::ENVIRONMENT);
  const Checked peer = check({}, [] {
    filter({{SCMP_SYS(getsockopt),
             ENOPROTOOPT,
             {SCMP_A2(SCMP_CMP_EQ, static_cast<scmp_datum_t>(SO_PEERPIDFD))}}});
  });
  EXPECT_EQ(peer.state("pidfd"), "degraded");

  const Checked confined = check({}, [] { filter({{SCMP_SYS(seccomp), EPERM}}); });
  EXPECT_EQ(confined.state("seccomp"), "missing");
  EXPECT_EQ(confined.code, cli::ENVIRONMENT);
}

TEST(Check, PagesAreReallyPutInPlace) {
  if (check({}).state("uffd-populate") != "ok") GTEST_SKIP() << "userfaultfd is not to be had here";
  const Checked copy = check({}, [] { filter({ioctlOf(UFFDIO_COPY)}); });
  EXPECT_EQ(copy.state("uffd-populate"), "missing");
  EXPECT_EQ(copy.code, cli::ENVIRONMENT);
  const Checked poison = check({}, [] { filter({ioctlOf(uffd::POISON_REQUEST)}); });
  EXPECT_EQ(poison.state("uffd-poison"), "degraded");
  EXPECT_THAT(poison.text("uffd-poison"), HasSubstr("killed"));
  EXPECT_EQ(poison.state("uffd-populate"), "ok");
}

TEST(Check, WithoutUserfaultfdTheWayOutIsNamed) {
  if (geteuid() != 0 || !canMount()) GTEST_SKIP() << "needs root and mounts";
  if (access("/dev/userfaultfd", F_OK) != 0) GTEST_SKIP() << "there is no /dev/userfaultfd";
  const Checked device = check({}, [] { filter({{SCMP_SYS(userfaultfd), EPERM}}); });
  EXPECT_EQ(device.state("userfaultfd"), "ok");
  EXPECT_EQ(device.text("userfaultfd"), "by /dev/userfaultfd");
  const Checked none = check({}, [] {
    ownMounts();
    require(mount("/dev/null", "/dev/userfaultfd", nullptr, MS_BIND, nullptr) == 0);
    filter({{SCMP_SYS(userfaultfd), EPERM}});
  });
  EXPECT_EQ(none.state("userfaultfd"), "missing");
  EXPECT_THAT(none.text("userfaultfd"), HasSubstr("vm.unprivileged_userfaultfd=1"));
  EXPECT_EQ(none.code, cli::ENVIRONMENT);
}

TEST(Check, AnotherUserLacksWhatRootHas) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  if (textOf("/proc/sys/vm/unprivileged_userfaultfd") != "0\n")
    GTEST_SKIP() << "everybody may use userfaultfd here";
  const Checked nobody = check({}, [] {
    const rlimit limit{4096, 4096};
    require(setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
  });
  EXPECT_EQ(nobody.state("userfaultfd"), "missing");
  EXPECT_EQ(nobody.state("memlock"), "missing");
  EXPECT_EQ(nobody.code, cli::ENVIRONMENT);
}

TEST(Check, WithoutAPoolHugePagesAreLost) {
  if (geteuid() != 0 || !canMount()) GTEST_SKIP() << "needs root and mounts";
  const Checked none = check({}, [] {
    ownMounts();
    require(mount("none", "/sys/kernel/mm/hugepages", "tmpfs", 0, nullptr) == 0);
  });
  EXPECT_EQ(none.state("hugetlb"), "degraded");
  EXPECT_THAT(none.text("hugetlb"), HasSubstr("vm.nr_hugepages"));
}

TEST(Check, SaysWhatAMemoryFileCanBe) {
  const Directory directory;
  const std::string base = directory.image(1), top = directory / "top";
  std::ofstream(top).close();
  std::filesystem::resize_file(top, 1 << 20);
  const Checked stack = check({"--memory", top, "--over", base});
  EXPECT_EQ(stack.state("memory"), "ok");
  EXPECT_EQ(stack.state("stack"), "ok");
  EXPECT_THAT(check({"--memory", base}).text("memory"), HasSubstr("the lowest layer only"));
  const Checked upsideDown = check({"--memory", base, "--over", top});
  EXPECT_EQ(upsideDown.state("memory"), "missing");
  EXPECT_THAT(upsideDown.text("memory"), HasSubstr("can't be an upper layer"));
  EXPECT_EQ(upsideDown.code, cli::ENVIRONMENT);
  const Checked none = check({"--memory", directory / "none"});
  EXPECT_EQ(none.state("memory"), "missing");
  EXPECT_THAT(none.text("memory"), HasSubstr("give the snapshot's memory file"));
}

TEST(Check, AFuseFileIsNoUpperLayer) {
  if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  Image image(16ul * 4096);
  const FuseFile file(image);
  EXPECT_THAT(check({"--memory", file.path()}).text("memory"), HasSubstr("the lowest layer only"));
}

TEST(Check, OfAnotherUsersFileWhatIsInMemoryIsNotTold) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to give a file away";
  const Directory directory;
  const std::string file = directory.image(1);
  EXPECT_EQ(check({"--memory", file}).state("memory"), "ok");
  ASSERT_EQ(chown(file.c_str(), NOBODY, NOBODY), 0);
  const Checked given = check({"--memory", file});
  EXPECT_EQ(given.state("memory"), "degraded");
  EXPECT_THAT(given.text("memory"), HasSubstr("another user's"));
}

}  // namespace
}  // namespace faultline::test
