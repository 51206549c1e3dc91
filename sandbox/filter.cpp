#include "sandbox/filter.h"

#include <errno.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace faultline::sandbox {

namespace {

constexpr int ALWAYS[] = {
    // Fds that are handed over, and calls on them.
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(pread64),
    SCMP_SYS(write),
    SCMP_SYS(writev),
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

// Of fcntl. Not among them: what has the kernel signal others (F_SETOWN, F_SETSIG, F_NOTIFY, F_SETLEASE),
// what changes an open file for all who share it (F_SETFL, by which a userfaultfd would become blocking),
// locks, and sizes of pipes.
constexpr int FCNTLS[] = {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_GET_SEALS};

void require(int result) {
  KJ_REQUIRE(result == 0, "cannot set up the system call filter (seccomp)", strerror(-result));
}

}  // namespace

void dropCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  KJ_SYSCALL(syscall(SYS_capset, &header, none), "give up the capabilities");
  // Were none held, these would be empty already.
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

Filter::Filter() : context_(seccomp_init(SCMP_ACT_ERRNO(EPERM))) {
  KJ_REQUIRE(context_ != nullptr, "seccomp_init");
  KJ_ON_SCOPE_FAILURE(seccomp_release(context_));
  for (const int call : ALWAYS) allow(call);
  // Requests by which KJ makes an fd non-blocking and close-on-exec.
  for (const unsigned long request : {FIONBIO, FIOCLEX}) allowIoctl(request);
  for (const int command : FCNTLS)
    allowIf(SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, static_cast<scmp_datum_t>(command)));
  // libc's fstat(); no file is opened by it.
  allowIf(SCMP_SYS(newfstatat), SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
  // Written memory never becomes code.
  for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)})
    allowIf(call, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  // Threads, not processes. clone3's flags are out of a filter's sight: without it libc uses clone.
  allowIf(SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
  require(seccomp_rule_add_array(context_, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0, nullptr));
  allowIf(SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
  // Itself: abort(), and the failpoints of tests.
  const auto self = static_cast<scmp_datum_t>(getpid());
  for (const int call : {SCMP_SYS(kill), SCMP_SYS(tgkill)}) allowIf(call, SCMP_A0(SCMP_CMP_EQ, self));
}

Filter::~Filter() {
  seccomp_release(context_);
}

void Filter::allow(int call) {
  require(seccomp_rule_add_array(context_, SCMP_ACT_ALLOW, call, 0, nullptr));
}

void Filter::allowIf(int call, const std::vector<scmp_arg_cmp>& arguments) {
  require(seccomp_rule_add_array(context_, SCMP_ACT_ALLOW, call, static_cast<unsigned>(arguments.size()),
                                 arguments.data()));
}

// The kernel looks at 32 bits of a request (fs/ioctl.c).
void Filter::allowIoctl(unsigned long request) {
  allowIf(SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, request & 0xffffffff));
}

// The filter is a tree, since it looks at some 60 calls.
void Filter::load() {
  require(seccomp_attr_set(context_, SCMP_FLTATR_CTL_TSYNC, 1));
  require(seccomp_attr_set(context_, SCMP_FLTATR_CTL_OPTIMIZE, 2));
  require(seccomp_load(context_));
}

}  // namespace faultline::sandbox
