#include "fetcher/sandbox.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <time.h>

#include <initializer_list>

#include "sandbox/fence.h"
#include "sandbox/filter.h"

namespace faultline::fetcher {

namespace {

#ifndef FAULTLINE_SANITIZED
// Allows what Ceph's library does: connections to the monitors and OSDs that its configuration and the cluster name, files
// that the fence lets through, looks at the machine.
void allowNetwork(sandbox::Filter& filter) {
  for (const int family : {AF_INET, AF_INET6})
    filter.allowIf(SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(family)));
  for (const int call : {SCMP_SYS(connect), SCMP_SYS(setsockopt),   SCMP_SYS(bind),       SCMP_SYS(sendmmsg),
                         SCMP_SYS(pipe2),   SCMP_SYS(epoll_create), SCMP_SYS(getdents64), SCMP_SYS(readlink),
                         SCMP_SYS(stat),    SCMP_SYS(lstat),        SCMP_SYS(statfs),     SCMP_SYS(uname),
                         SCMP_SYS(sysinfo), SCMP_SYS(clock_getres), SCMP_SYS(times),      SCMP_SYS(getrusage),
                         SCMP_SYS(getuid),  SCMP_SYS(geteuid),      SCMP_SYS(getgid),     SCMP_SYS(getegid),
                         SCMP_SYS(getppid), SCMP_SYS(getcpu),       SCMP_SYS(newfstatat), SCMP_SYS(statx)})
    filter.allow(call);
  // Its pipes and sockets do not block.
  for (const int access : {O_RDONLY, O_WRONLY, O_RDWR})
    filter.allowIf(SCMP_SYS(fcntl), {SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, F_SETFL),
                                     SCMP_A2(SCMP_CMP_EQ, static_cast<scmp_datum_t>(access | O_NONBLOCK))});
}
#endif

}  // namespace

void dropCapabilities() {
#ifndef FAULTLINE_SANITIZED  // a leak is looked for by a thread that traces the others
  sandbox::dropCapabilities();
#endif
}

void fence([[maybe_unused]] const Rights& rights) {
  tzset();                   // reads a file, which the log would do later
#ifndef FAULTLINE_SANITIZED  // a sanitizer reads the programs whose functions it names, and writes its reports
  if (!rights.readable.empty()) sandbox::fenceFiles(rights.readable);
#endif
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
  if (rights.connections || rights.network) {
    // libcurl asks whom it is connected to.
    for (const int call : {SCMP_SYS(getpeername), SCMP_SYS(getsockname)}) filter.allow(call);
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
  if (rights.network) allowNetwork(filter);
  filter.load();
  return true;
#endif
}

}  // namespace faultline::fetcher
