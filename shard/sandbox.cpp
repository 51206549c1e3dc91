#include "shard/sandbox.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/resource.h>
#include <time.h>

#include "sandbox/filter.h"
#include "uffd/uffd.h"

namespace faultline::shard {

namespace {

// Beside those that every process with a filter has: reads of a source, residency of its pages, memory that is locked.
constexpr int ALWAYS[] = {
    SCMP_SYS(preadv),         SCMP_SYS(preadv2),      SCMP_SYS(recvfrom), SCMP_SYS(sendto),
    SCMP_SYS(io_uring_enter), SCMP_SYS(epoll_pwait2), SCMP_SYS(mincore),  SCMP_SYS(mlock),
    SCMP_SYS(munlock),        SCMP_SYS(geteuid),
};

// A userfaultfd's own requests.
constexpr unsigned long IOCTLS[] = {UFFDIO_COPY,          UFFDIO_ZEROPAGE,   UFFDIO_WAKE,
                                    uffd::POISON_REQUEST, UFFDIO_UNREGISTER, UFFDIO_WRITEPROTECT};

}  // namespace

void dropCapabilities() {
#ifndef FAULTLINE_SANITIZED  // a leak is looked for by a thread that traces the others
  // Segments stay locked in memory, for which CAP_IPC_LOCK may have stood. Best effort: then the limit has to
  // do.
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  sandbox::dropCapabilities();
#endif
}

bool enterSandbox() {
#ifdef FAULTLINE_SANITIZED
  return false;
#else
  tzset();  // reads a file, which the log would do later
  sandbox::Filter filter;
  for (const int call : ALWAYS) filter.allow(call);
  for (const unsigned long request : IOCTLS) filter.allowIoctl(request);
  // What a source's file is; no file is opened by it.
  filter.allowIf(SCMP_SYS(statx), SCMP_A2(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
  filter.load();
  return true;
#endif
}

}  // namespace faultline::shard
