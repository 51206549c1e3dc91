#include "supervisor/coordinator_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

namespace faultline::supervisor {

namespace {

// A send that is made while poll() says so never waits: the kernel says it while at most a quarter of the
// send buffer is taken (net/unix/af_unix.c, unix_writable), and no other process sends.
bool writable(int fd) {
  pollfd poll{fd, POLLOUT, 0};
  return ::poll(&poll, 1, 0) == 1;
}

}  // namespace

CoordinatorProcess::CoordinatorProcess(const std::string& executable,
                                       const std::vector<std::string>& arguments, int image)
    : channel_(kj::AutoCloseFd()) {
  auto [ours, theirs] = process::FdChannel::pair();
  process_ = process::startProcess(executable, arguments, theirs.get(), {.image = image});
  channel_ = process::FdChannel(kj::mv(ours));
}

void CoordinatorProcess::signal(int number) {
  process::sendSignal(pidfd(), number);
}

void CoordinatorProcess::say(const std::string& verb, const std::string& name, SharedFd fd) {
  unsent_.push_back({verb, name, std::move(fd)});
  flush();
}

void CoordinatorProcess::flush() {
  while (!unsent_.empty() && open_ && writable(channel_.fd())) {
    const Word& word = unsent_.front();
    if (!channel_.send(word.verb, word.name, word.fd == nullptr ? -1 : word.fd->get())) break;
    unsent_.pop_front();
  }
}

kj::Maybe<process::FdChannel::Message> CoordinatorProcess::hear() {
  // Twice: of a peer that died with words of ours unread the kernel first tells that (ECONNRESET, which the
  // channel takes for its end) and only then hands out what the peer had said before.
  for (int attempt = 0; attempt < 2; attempt++) {
    auto received = channel_.receive(process::FdChannel::Wait::no);
    if (received != nullptr) {
      heardAt_ = Clock::now();
      return received;
    }
    if (!channel_.closed()) return nullptr;
  }
  open_ = false;
  unsent_.clear();
  return nullptr;
}

CoordinatorProcess::Exit CoordinatorProcess::reap() {
  siginfo_t info{};
  std::optional<int> code;
  if (waitid(P_PIDFD, static_cast<id_t>(pidfd()), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
      info.si_pid != 0 && info.si_code == CLD_EXITED)
    code = info.si_status;
  return {process::describeExit(pidfd()), code};
}

}  // namespace faultline::supervisor
