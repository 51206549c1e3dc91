// A shard's sandbox: system calls that it lets through and that it refuses, tried by a process that has
// entered it.

#include "shard/sandbox.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>
#include <thread>

#include "shard/source/read_ring.h"

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

// By command: what would signal others, or change an open file under those who share it, is refused.
TEST_F(Sandbox, OfFcntlOnlyHarmlessCommandsPass) {
  EXPECT_EQ(inSandbox([] { return fcntl(STDERR_FILENO, F_SETOWN, getppid()) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] {
              f_owner_ex owner{F_OWNER_PID, getppid()};
              return fcntl(STDERR_FILENO, F_SETOWN_EX, &owner) == 0;
            }),
            EPERM);
  EXPECT_EQ(inSandbox([] { return fcntl(STDERR_FILENO, F_SETSIG, SIGKILL) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return fcntl(STDERR_FILENO, F_SETFL, O_ASYNC) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return fcntl(STDERR_FILENO, F_NOTIFY, DN_ACCESS) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return fcntl(STDERR_FILENO, F_SETLEASE, F_WRLCK) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return fcntl(STDERR_FILENO, F_SETPIPE_SZ, 1 << 20) >= 0; }), EPERM);
  EXPECT_EQ(inSandbox([] {
              struct flock all {};
              all.l_type = F_RDLCK;
              return fcntl(STDERR_FILENO, F_OFD_SETLKW, &all) == 0;
            }),
            EPERM);
  EXPECT_EQ(inSandbox([] { return fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3) >= 0; }), 0);
}

TEST_F(Sandbox, NoFdOfAnotherProcessIsTaken) {
  EXPECT_EQ(inSandbox([] { return syscall(SYS_pidfd_getfd, 0, 0, 0) >= 0; }), EPERM);
  EXPECT_EQ(
      inSandbox([] { return open(("/proc/" + std::to_string(getppid()) + "/fd/0").c_str(), O_RDONLY) >= 0; }),
      EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_kcmp, getpid(), getppid(), 0, 0, 0) >= 0; }), EPERM);
  EXPECT_EQ(inSandbox([] {
              char byte = 0;
              iovec here{&byte, 1}, there{&byte, 1};
              return process_vm_writev(getppid(), &here, 1, &there, 1, 0) == 1;
            }),
            EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_process_madvise, 0, nullptr, 0, 0, 0) >= 0; }), EPERM);
}

TEST_F(Sandbox, NoSignalReachesAnotherProcess) {
  EXPECT_EQ(inSandbox([] { return syscall(SYS_tgkill, getppid(), getppid(), 0) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_tkill, getppid(), 0) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_rt_sigqueueinfo, getppid(), 0, nullptr) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return syscall(SYS_pidfd_send_signal, 0, 0, nullptr, 0) == 0; }), EPERM);
  EXPECT_EQ(inSandbox([] { return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0; }), EPERM);
}

// The ring of a shard in an attacker's hands: each operation, tried in a process that has the ring as a shard
// makes it. 0 or a positive number: done; -errno: refused.
class Ring : public Sandbox {
 protected:
  void SetUp() override {
    Sandbox::SetUp();
    io_uring ring;
    if (!makeReadRing(ring, 8, eventfd(0, EFD_CLOEXEC))) GTEST_SKIP() << "no io_uring here";
    io_uring_queue_exit(&ring);
  }
  static int answerTo(const std::function<void(io_uring_sqe*)>& prepare) {
    io_uring ring;
    if (!makeReadRing(ring, 8, eventfd(0, EFD_CLOEXEC))) return -1;
    const int result = inSandbox([&] {
      prepare(io_uring_get_sqe(&ring));
      io_uring_cqe* answer = nullptr;
      if (io_uring_submit_and_wait(&ring, 1) < 0 || io_uring_peek_cqe(&ring, &answer) != 0) return false;
      errno = answer->res < 0 ? -answer->res : 0;
      return answer->res >= 0;
    });
    io_uring_queue_exit(&ring);
    return result;
  }
};

TEST_F(Ring, Reads) {
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  char bytes[4];
  EXPECT_EQ(answerTo([&](io_uring_sqe* entry) { io_uring_prep_read(entry, file, bytes, 4, 0); }), 0);
  close(file);
}

TEST_F(Ring, DoesNothingElse) {
  const auto refusal = [](unsigned operation) {
    return answerTo([&](io_uring_sqe* entry) {
      io_uring_prep_rw(static_cast<int>(operation), entry, AT_FDCWD, "/etc/passwd", 0, 0);
    });
  };
  for (unsigned operation = 0; operation < IORING_OP_LAST; operation++)
    if (operation != IORING_OP_READ) {
      EXPECT_EQ(refusal(operation), EACCES) << operation;
    }
  // Operations of later kernels; EINVAL: this kernel does not know it.
  for (unsigned operation = IORING_OP_LAST; operation < IORING_OP_LAST + 32; operation++)
    EXPECT_THAT(refusal(operation), testing::AnyOf(EACCES, EINVAL)) << operation;
}

TEST_F(Ring, CannotBeWidened) {
  EXPECT_EQ(inSandbox([] { return syscall(SYS_io_uring_register, 0, 0, nullptr, 0) >= 0; }), EPERM);
}

TEST(Capabilities, AreGivenUpForGood) {
  if (inSandbox([] { return true; }) == 200) GTEST_SKIP() << "a build with sanitizers keeps them";
  const pid_t child = fork();
  if (child == 0) {
    dropCapabilities();
    const bool kept =
        prctl(PR_CAPBSET_DROP, 0) == 0 || setuid(1) == 0 || mount("none", "/", nullptr, 0, nullptr) == 0;
    _exit(kept ? 1 : 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
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
