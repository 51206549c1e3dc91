#include "shard/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <linux/capability.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "uffd/uffd.h"

namespace faultline::shard {

namespace {

// EPERM rather than death: a call that some library makes and can do without must not cost the shard, whose
// faults its successor would answer with the same call.
constexpr std::uint32_t OTHERWISE = SCMP_ACT_ERRNO(EPERM);

constexpr int ALWAYS[] = {
    // Fds that are handed over, and calls on them.
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(pread64),
    SCMP_SYS(preadv),
    SCMP_SYS(preadv2),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(shutdown),
    SCMP_SYS(getsockopt),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(lseek),
    SCMP_SYS(dup),
    SCMP_SYS(eventfd2),
    SCMP_SYS(io_uring_enter),
    // Waiting.
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(futex),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(sched_yield),
    SCMP_SYS(restart_syscall),
    // Memory of its own.
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(brk),
    SCMP_SYS(madvise),
    SCMP_SYS(mincore),
    SCMP_SYS(mlock),
    SCMP_SYS(munlock),
    SCMP_SYS(membarrier),
    // Threads and signals of its own, and its end.
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(geteuid),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(getrandom),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

// A userfaultfd's own requests, and those by which KJ makes an fd non-blocking and close-on-exec.
constexpr unsigned long IOCTLS[] = {UFFDIO_COPY,       UFFDIO_ZEROPAGE,     UFFDIO_WAKE, uffd::POISON_REQUEST,
                                    UFFDIO_UNREGISTER, UFFDIO_WRITEPROTECT, FIONBIO,     FIOCLEX};

// Of fcntl. Not among them: what has the kernel signal others (F_SETOWN, F_SETSIG, F_NOTIFY, F_SETLEASE),
// what changes an open file for all who share it (F_SETFL, by which a userfaultfd would become blocking),
// locks, and sizes of pipes.
constexpr int FCNTLS[] = {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_GET_SEALS};

class Filter {
 public:
  Filter() : context_(seccomp_init(OTHERWISE)) { KJ_REQUIRE(context_ != nullptr, "seccomp_init"); }
  ~Filter() { seccomp_release(context_); }
  Filter(const Filter&) = delete;

  void allow(int call) { require(seccomp_rule_add_array(context_, SCMP_ACT_ALLOW, call, 0, nullptr)); }
  void allowIf(int call, scmp_arg_cmp argument) {
    require(seccomp_rule_add_array(context_, SCMP_ACT_ALLOW, call, 1, &argument));
  }
  void answer(int call, int error) {
    require(seccomp_rule_add_array(context_, SCMP_ACT_ERRNO(error), call, 0, nullptr));
  }
  void load() {
    // All threads, not only this one. The filter is a tree, since it looks at some 60 calls.
    require(seccomp_attr_set(context_, SCMP_FLTATR_CTL_TSYNC, 1));
    require(seccomp_attr_set(context_, SCMP_FLTATR_CTL_OPTIMIZE, 2));
    require(seccomp_load(context_));
  }

 private:
  static void require(int result) {
    KJ_REQUIRE(result == 0, "cannot set up the system call filter (seccomp)", strerror(-result));
  }

  scmp_filter_ctx context_;
};

}  // namespace

void dropCapabilities() {
#ifdef FAULTLINE_SANITIZED
  return;  // a leak is looked for by a thread that traces the others
#endif
  // Segments stay locked in memory, for which CAP_IPC_LOCK may have stood. Best effort: then the limit has to
  // do.
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  KJ_SYSCALL(syscall(SYS_capset, &header, none), "give up the capabilities");
  // Were none held, these would be empty already.
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

bool enterSandbox() {
#ifdef FAULTLINE_SANITIZED
  return false;
#else
  tzset();  // reads a file, which the log would do later
  Filter filter;
  for (const int call : ALWAYS) filter.allow(call);
  // The kernel looks at 32 bits of a request (fs/ioctl.c).
  for (const unsigned long request : IOCTLS)
    filter.allowIf(SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, request & 0xffffffff));
  for (const int command : FCNTLS)
    filter.allowIf(SCMP_SYS(fcntl),
                   SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, static_cast<scmp_datum_t>(command)));
  // libc's fstat(), and what a source's file is; no file is opened by them.
  filter.allowIf(SCMP_SYS(newfstatat), SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
  filter.allowIf(SCMP_SYS(statx), SCMP_A2(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
  // Written memory never becomes code.
  for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)})
    filter.allowIf(call, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  // Threads, not processes. clone3's flags are out of a filter's sight: without it libc uses clone.
  filter.allowIf(SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
  filter.answer(SCMP_SYS(clone3), ENOSYS);
  filter.allowIf(SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
  // Itself: abort(), and the failpoints of tests.
  const auto self = static_cast<scmp_datum_t>(getpid());
  for (const int call : {SCMP_SYS(kill), SCMP_SYS(tgkill)}) filter.allowIf(call, SCMP_A0(SCMP_CMP_EQ, self));
  filter.load();
  return true;
#endif
}

}  // namespace faultline::shard
