// A coordinator for the supervisor's tests: passes words on between the supervisor and the test, and does
// nothing by itself.
//
//   fake-coordinator SOCKET [PING-MS]
// SOCKET: where the test listens (SOCK_SEQPACKET, words as on the supervisor's channel). PING-MS: say "alive"
// so often. Says to the test: "hello PID"; every word of the supervisor; "sigterm"; "said VERB" when a word
// of the test's is on its way to the supervisor; "pinged". Obeys the test: "exit CODE"; "deaf" (read nothing
// of the supervisor's any more); "pending" (answered when a word of the supervisor's lies unread); "orphan"
// (start a process that outlives us; answered with its pid); anything else is said to the supervisor.

#include <kj/debug.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "process/fd_channel.h"
#include "process/process.h"

namespace {

using faultline::process::FdChannel;

kj::AutoCloseFd connectTo(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  KJ_REQUIRE(path.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  kj::AutoCloseFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  KJ_SYSCALL(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
  return fd;
}

kj::AutoCloseFd terminations() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  KJ_SYSCALL(sigprocmask(SIG_BLOCK, &set, nullptr));
  int fd;
  KJ_SYSCALL(fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  return kj::AutoCloseFd(fd);
}

class Fake {
 public:
  explicit Fake(const char* socket)
      : supervisor_(kj::AutoCloseFd(faultline::process::CHANNEL_FD)),
        test_(connectTo(socket)),
        terminations_(terminations()) {
    test_.send("hello", std::to_string(getpid()));
  }

  // Runs until supervisor or test has gone.
  void run(int pingMs) {
    while (!supervisor_.closed() && !test_.closed()) {
      pollfd fds[] = {{deaf_ ? -1 : supervisor_.fd(), POLLIN, 0},
                      {test_.fd(), POLLIN, 0},
                      {terminations_.get(), POLLIN, 0}};
      if (poll(fds, 3, pingMs) == 0) ping();
      if (fds[0].revents != 0) passOn();
      if (fds[1].revents != 0) obey();
      if (fds[2].revents != 0) terminated();
    }
  }

 private:
  void ping() {
    supervisor_.send("alive");
    test_.send("pinged");
  }

  void passOn() {
    auto received = supervisor_.receive(FdChannel::Wait::yes);
    KJ_IF_MAYBE (word, received) {
      test_.send(word->verb, word->name, word->fd.get());
    }
  }

  void obey() {
    auto received = test_.receive(FdChannel::Wait::yes);
    KJ_IF_MAYBE (word, received) {
      if (word->verb == "exit") _exit(std::stoi(word->name));
      if (word->verb == "deaf") {
        deaf_ = true;
        test_.send("said", word->verb);
      } else if (word->verb == "pending") {
        pollfd unread{supervisor_.fd(), POLLIN, 0};
        poll(&unread, 1, -1);
        test_.send("said", word->verb);
      } else if (word->verb == "orphan") {
        orphan();
      } else {
        supervisor_.send(word->verb, word->name, word->fd.get());
        test_.send("said", word->verb);
      }
    }
  }

  void orphan() {
    const pid_t pid = fork();
    if (pid == 0) {
      close(supervisor_.fd());
      close(test_.fd());
      for (;;) pause();
    }
    test_.send("orphan", std::to_string(pid));
  }

  void terminated() {
    signalfd_siginfo info{};
    while (read(terminations_.get(), &info, sizeof info) == sizeof info) test_.send("sigterm");
  }

  FdChannel supervisor_, test_;
  kj::AutoCloseFd terminations_;
  bool deaf_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  Fake(argv[1]).run(argc > 2 ? std::atoi(argv[2]) : -1);
  return 0;
}
