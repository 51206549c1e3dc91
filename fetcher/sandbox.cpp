#include "fetcher/sandbox.h"

#include <fcntl.h>
#include <time.h>

#include <initializer_list>

#include "sandbox/fence.h"
#include "sandbox/filter.h"

namespace faultline::fetcher {

void dropCapabilities() {
#ifndef FAULTLINE_SANITIZED  // a leak is looked for by a thread that traces the others
  sandbox::dropCapabilities();
#endif
}

void fence(const Rights& rights) {
  tzset();  // reads a file, which the log would do later
  if (!rights.readable.empty()) sandbox::fenceFiles(rights.readable);
}

bool enterSandbox([[maybe_unused]] const Rights& rights, [[maybe_unused]] bool fenced) {
#ifdef FAULTLINE_SANITIZED
  return false;
#else
  tzset();
  sandbox::Filter filter;
  // Writing caches.
  for (const int call : {SCMP_SYS(pwrite64), SCMP_SYS(fallocate), SCMP_SYS(sync_file_range)})
    filter.allow(call);
  if (rights.connections) {
    // To the other end of a connection, and to no address.
    for (const int call : {SCMP_SYS(sendto), SCMP_SYS(recvfrom)})
      filter.allowIf(call, SCMP_A4(SCMP_CMP_EQ, 0));
    // libnbd makes its sockets non-blocking.
    filter.allowIf(SCMP_SYS(fcntl), {SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, F_SETFL),
                                     SCMP_A2(SCMP_CMP_EQ, O_RDWR | O_NONBLOCK)});
  }
  if (fenced) {
    filter.allowIf(SCMP_SYS(openat), SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
    for (const int call : {SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2)}) filter.allow(call);
  }
  filter.load();
  return true;
#endif
}

}  // namespace faultline::fetcher
