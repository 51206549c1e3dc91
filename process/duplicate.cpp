#include "process/duplicate.h"

#include <fcntl.h>
#include <kj/debug.h>

namespace faultline::process {

kj::AutoCloseFd duplicate(int fd) {
  int copy;
  KJ_SYSCALL(copy = fcntl(fd, F_DUPFD_CLOEXEC, 3), "duplicate a file descriptor");
  return kj::AutoCloseFd(copy);
}

}  // namespace faultline::process
