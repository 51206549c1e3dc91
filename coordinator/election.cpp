#include "coordinator/election.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

namespace faultline::coordinator {

namespace {

constexpr std::chrono::milliseconds RETRY{10};

kj::AutoCloseFd make() {
  int fd;
  KJ_SYSCALL(fd = memfd_create("faultline-election", MFD_CLOEXEC));
  return kj::AutoCloseFd(fd);
}

struct flock whole() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

// 0: the lock is ours; else the pid of its holder.
pid_t holder(int fd) {
  struct flock lock = whole();
  if (fcntl(fd, F_SETLK, &lock) == 0) return 0;
  KJ_REQUIRE(errno == EAGAIN || errno == EACCES, "a coordinator cannot be elected", errno);
  KJ_SYSCALL(fcntl(fd, F_GETLK, &lock));
  return lock.l_type == F_UNLCK ? -1 : lock.l_pid;
}

}  // namespace

Election::Election(kj::AutoCloseFd kept, std::chrono::milliseconds patience)
    : fresh_(kept.get() < 0), fd_(fresh_ ? make() : kj::mv(kept)) {
  const auto until = std::chrono::steady_clock::now() + patience;
  pid_t other;
  while ((other = holder(fd_.get())) != 0) {
    KJ_REQUIRE(std::chrono::steady_clock::now() < until,
               "another coordinator lives and serves what is kept: end it", other);
    std::this_thread::sleep_for(RETRY);
  }
}

}  // namespace faultline::coordinator
