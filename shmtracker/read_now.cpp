#include "shmtracker/read_now.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>

namespace faultline::shm {

namespace {

int alarmSignal() {
  return SIGRTMAX - 1;
}

// Interrupts what this thread waits in.
class Alarm {
 public:
  Alarm() {
    struct sigaction nothing {};
    nothing.sa_handler = [](int) {};
    sigaction(alarmSignal(), &nothing, nullptr);  // without SA_RESTART
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, alarmSignal());
    pthread_sigmask(SIG_UNBLOCK, &own, nullptr);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = alarmSignal();
    event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
    if (timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0)
      throw std::system_error(errno, std::generic_category(), "make a timer for reads of the userfaultfd");
  }
  Alarm(const Alarm&) = delete;
  ~Alarm() { timer_delete(timer_); }

  // Again and again, since the first may come before the thread waits.
  void arm() { set(READ_BOUND); }
  void disarm() { set(std::chrono::milliseconds(0)); }

 private:
  void set(std::chrono::milliseconds every) {
    const timespec time{0, std::chrono::nanoseconds(every).count()};
    const itimerspec both{time, time};
    timer_settime(timer_, 0, &both, nullptr);
  }

  timer_t timer_{};
};

void setNonBlocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) == 0) fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

}  // namespace

ssize_t readNow(int fd, void* to, std::size_t bytes) {
  static std::atomic<bool> kernelCan{true};
  if (kernelCan.load(std::memory_order_relaxed)) {
    const iovec place{to, bytes};
    const ssize_t got = preadv2(fd, &place, 1, -1, RWF_NOWAIT);
    if (got >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS)) return got;
    kernelCan.store(false, std::memory_order_relaxed);
  }
  return readBounded(fd, to, bytes);
}

ssize_t readBounded(int fd, void* to, std::size_t bytes) {
  thread_local Alarm alarm;
  setNonBlocking(fd);
  alarm.arm();
  ssize_t got = read(fd, to, bytes);
  const int error = errno;
  alarm.disarm();
  // A userfaultfd looks for messages before it waits, so there was none when it was interrupted.
  errno = got < 0 && error == EINTR ? EAGAIN : error;
  return got;
}

}  // namespace faultline::shm
