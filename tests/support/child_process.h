// A forked child that does one thing. For tests of what processes share; the test must be single-threaded.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace faultline::test {

// Killed and reaped by the destructor.
class ChildProcess {
 public:
  explicit ChildProcess(const std::function<void()>& work) : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    work();
    _exit(0);
  }
  ~ChildProcess() { kill(); }
  ChildProcess(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    join();
  }
  // Its exit code; 128 + signal where it was killed.
  int join() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

// A rendezvous between processes.
class Signal {
 public:
  Signal() {
    if (pipe(ends_) != 0) _exit(99);
  }
  ~Signal() {
    close(ends_[0]);
    close(ends_[1]);
  }
  Signal(const Signal&) = delete;
  void send() { [[maybe_unused]] const auto n = write(ends_[1], "x", 1); }
  void wait() {
    char byte;
    [[maybe_unused]] const auto n = read(ends_[0], &byte, 1);
  }

 private:
  int ends_[2];
};

}  // namespace faultline::test
