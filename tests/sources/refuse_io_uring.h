// A process to which io_uring is refused, as container runtimes do it.
#pragma once

#include <seccomp.h>
#include <unistd.h>

#include <cerrno>

namespace faultline::test {

// For ServerOptions::before.
inline void refuseIoUring() {
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
  if (seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(io_uring_setup), 0) != 0 ||
      seccomp_load(filter) != 0)
    _exit(126);
  seccomp_release(filter);
}

}  // namespace faultline::test
