// A shard's sandbox: system calls that it lets through and that it refuses, tried by a process that has
// entered it.

#include "shard/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <thread>

namespace faultline::shard {
namespace {

// Runs `attempt` in a child that has entered the sandbox: its errno, 0 where it worked; -1 where it died.
int inSandbox(const std::function<bool()>& attempt) {
  const pid_t child = fork();
  if (child == 0) {
    if (!enterSandbox()) _exit(200);
    errno = 0;
    _exit(attempt() ? 0 : errno);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class Sandbox : public testing::Test {
 protected:
  void SetUp() override {
    if (inSandbox([] { return true; }) == 200) GTEST_SKIP() << "a build with sanitizers has no filter";
  }
};

TEST_F(Sandbox, LetsNothingInOrOut) {
  EXPECT_EQ(inSandbox([] { return socket(AF_UNIX, SOCK_STREAM, 0) >= 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return socket(AF_INET, SOCK_STREAM, 0) >= 0; }), EPERM);
  EXPECT_EQ(inSandbox([] {
              int ends[2];
              return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0;
            }),
            EPERM);
  EXPECT_EQ(inSandbox([] { return open("/etc/passwd", O_RDONLY) >= 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_memfd_create, "x", 0) >= 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_userfaultfd, 0) >= 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_io_uring_setup, 1, nullptr) >= 0; }), EPERM);
}

TEST_F(Sandbox, StartsNoProgramAndLooksIntoNoProcess) {
  EXPECT_EQ(inSandbox([] { return execl("/bin/true", "true", nullptr) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_clone, SIGCHLD, nullptr) >= 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return ptrace(PTRACE_ATTACH, getppid(), nullptr, nullptr) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] {
              char byte;
              iovec here{&byte, 1}, there{&byte, 1};
              return process_vm_readv(getppid(), &here, 1, &there, 1, 0) == 1;
            }),
            EPERM);
  EXPECT_EQ(inSandbox([] { return kill(getppid(), 0) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_pidfd_open, getppid(), 0) >= 0; }), EPERM);
}

TEST_F(Sandbox, NothingThatIsWrittenBecomesCode) {
  EXPECT_EQ(inSandbox([] {
              return mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
                     MAP_FAILED;
            }),
            EPERM);
  EXPECT_EQ(inSandbox([] {
              void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              return page == MAP_FAILED || mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0;
            }),
            EPERM);
}

TEST_F(Sandbox, OfIoctlsOnlyAUserfaultfdsPass) {
  // The kernel is asked, and says that this is no userfaultfd's.
  uffdio_copy copy{};
  EXPECT_EQ(inSandbox([&] { return ioctl(STDERR_FILENO, UFFDIO_COPY, &copy) == 0; }), ENOTTY);
  uffdio_api api{};
  EXPECT_EQ(inSandbox([&] { return ioctl(STDERR_FILENO, UFFDIO_API, &api) == 0; }), EPERM);
  uffdio_register range{};
  EXPECT_EQ(inSandbox([&] { return ioctl(STDERR_FILENO, UFFDIO_REGISTER, &range) == 0; }), EPERM);
  char key = 'x';
  EXPECT_EQ(inSandbox([&] { return ioctl(STDERR_FILENO, TIOCSTI, &key) == 0; }), EPERM);
}

TEST_F(Sandbox, CannotBeLeft) {
  EXPECT_EQ(inSandbox([] { return prctl(PR_SET_SECCOMP, 0, nullptr) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return prctl(PR_SET_DUMPABLE, 1) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return setuid(0) == 0; }), EPERM);
}

TEST_F(Sandbox, AShardsWorkGoesOn) {
  EXPECT_EQ(inSandbox([] {
              bool ran = false;
              std::thread([&ran] { ran = eventfd(0, EFD_CLOEXEC) >= 0; }).join();
              return ran;
            }),
            0);
  EXPECT_EQ(inSandbox([] {
              void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              return page != MAP_FAILED && madvise(page, 4096, MADV_DONTNEED) == 0 && munmap(page, 4096) == 0;
            }),
            0);
}

// Threads that were there before are held as well.
TEST_F(Sandbox, HoldsForEveryThread) {
  EXPECT_EQ(inSandbox([] { return true; }), 0);
  const pid_t child = fork();
  if (child == 0) {
    std::atomic<bool> entered{false};
    int error = 0;
    std::thread other([&] {
      while (!entered) sched_yield();
      error = socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? errno : 0;
    });
    enterSandbox();
    entered = true;
    other.join();
    _exit(error);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), EPERM);
}

}  // namespace
}  // namespace faultline::shard
