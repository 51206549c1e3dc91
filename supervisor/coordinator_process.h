// An incarnation of the coordinator, as its supervisor sees it: the process and the channel to it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "process/fd_channel.h"
#include "process/process.h"
#include "supervisor/fd_store.h"

namespace faultline::supervisor {

// Single-threaded. Never waits for the coordinator: a stopped coordinator must not stop its supervisor.
class CoordinatorProcess {
 public:
  using Clock = std::chrono::steady_clock;

  // Starts it. Throws naming the executable where that is not possible.
  // `image`: as process::startProcess takes it.
  CoordinatorProcess(const std::string& executable, const std::vector<std::string>& arguments,
                     int image = -1);

  pid_t pid() const { return process_.pid; }  // to show to people
  int pidfd() const { return process_.pidfd.get(); }
  bool ended() const { return process::hasEnded(pidfd()); }
  void signal(int number);

  // The channel, to be polled for POLLIN, and POLLOUT while unsent(); -1 once its other end is closed.
  int channel() const { return open_ ? channel_.fd() : -1; }
  bool unsent() const { return !unsent_.empty(); }

  // Queues a word and sends what the channel takes now.
  void say(const std::string& verb, const std::string& name = "", SharedFd fd = nullptr);
  // Sends on. Throws where a word cannot be sent at all.
  void flush();
  // The next message from the coordinator; empty where there is none for now.
  kj::Maybe<process::FdChannel::Message> hear();

  Clock::time_point started() const { return started_; }
  Clock::time_point heardAt() const { return heardAt_; }
  // Counts the silence from now.
  void excuseSilence() { heardAt_ = Clock::now(); }
  bool ready() const { return ready_; }
  void setReady() { ready_ = true; }

  struct Exit {
    std::string reason;       // for people: "killed by signal 9 (Killed)"
    std::optional<int> code;  // exit code, where the process exited by itself
  };
  // The exit of a process that has ended. Reaps it: to be called once.
  Exit reap();

 private:
  struct Word {
    std::string verb, name;
    SharedFd fd;  // may be null
  };

  process::ChildProcess process_;
  process::FdChannel channel_;
  std::deque<Word> unsent_;
  bool open_ = true;
  bool ready_ = false;
  const Clock::time_point started_ = Clock::now();
  Clock::time_point heardAt_ = started_;
};

}  // namespace faultline::supervisor
