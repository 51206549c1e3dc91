#include "fetcher/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace faultline::fetcher {

namespace {

constexpr int ALWAYS[] = {
    // Fds that are handed over, and calls on them.
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(pread64),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(pwrite64),
    SCMP_SYS(fallocate),
    SCMP_SYS(sync_file_range),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(shutdown),
    SCMP_SYS(getsockopt),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(lseek),
    SCMP_SYS(dup),
    SCMP_SYS(eventfd2),
    // Waiting.
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
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
    SCMP_SYS(membarrier),
    // Threads and signals of its own, and its end.
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(getrandom),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

// Those by which KJ makes an fd non-blocking and close-on-exec.
constexpr unsigned long IOCTLS[] = {FIONBIO, FIOCLEX};
constexpr int FCNTLS[] = {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_GET_SEALS};

void require(int result) {
  KJ_REQUIRE(result == 0, "cannot set up the system call filter (seccomp)", strerror(-result));
}

[[maybe_unused]] void allowIf(scmp_filter_ctx filter, int call, scmp_arg_cmp argument) {
  require(seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, 1, &argument));
}

}  // namespace

void dropCapabilities() {
#ifdef FAULTLINE_SANITIZED
  return;  // a leak is looked for by a thread that traces the others
#endif
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  KJ_SYSCALL(syscall(SYS_capset, &header, none), "give up the capabilities");
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

bool enterSandbox() {
#ifdef FAULTLINE_SANITIZED
  return false;
#else
  tzset();  // reads a file, which the log would do later
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
  KJ_REQUIRE(filter != nullptr, "seccomp_init");
  KJ_DEFER(seccomp_release(filter));
  for (const int call : ALWAYS) require(seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, 0, nullptr));
  // The kernel looks at 32 bits of a request (fs/ioctl.c).
  for (const unsigned long request : IOCTLS)
    allowIf(filter, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, request & 0xffffffff));
  for (const int command : FCNTLS)
    allowIf(filter, SCMP_SYS(fcntl),
            SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, static_cast<scmp_datum_t>(command)));
  // libc's fstat(); no file is opened by it.
  allowIf(filter, SCMP_SYS(newfstatat), SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
  // Written memory never becomes code.
  for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)})
    allowIf(filter, call, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  // Threads, not processes. clone3's flags are out of a filter's sight: without it libc uses clone.
  allowIf(filter, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
  require(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0, nullptr));
  allowIf(filter, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
  const auto self = static_cast<scmp_datum_t>(getpid());
  for (const int call : {SCMP_SYS(kill), SCMP_SYS(tgkill)}) allowIf(filter, call, SCMP_A0(SCMP_CMP_EQ, self));
  // All threads, not only this one.
  require(seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1));
  require(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2));
  require(seccomp_load(filter));
  return true;
#endif
}

}  // namespace faultline::fetcher
