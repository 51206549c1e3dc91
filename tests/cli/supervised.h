// A supervisor in a process of its own, and the fake coordinators that it starts, in the hands of a test.
//
// The helpers never wait for time to pass: each step is answered by a message, an exit or a readable fd. An
// answer that does not come within PATIENCE throws, and so fails the test.
#pragma once

#include <kj/io.h>
#include <sched.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "process/fd_channel.h"
#include "supervisor/fd_store.h"

namespace faultline::test {

inline constexpr std::chrono::seconds PATIENCE{30};

// Calls `done` until it says true, giving the CPU away in between. For events without a notification.
template <typename Done>
void await(Done&& done, const std::string& what) {
  const auto deadline = std::chrono::steady_clock::now() + PATIENCE;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= deadline) throw std::runtime_error("waited in vain for " + what);
    sched_yield();
  }
}

// Throws where `fd` does not become readable in time.
void awaitReadable(int fd, const std::string& what);
// A memfd that holds `content`, and what an fd holds.
kj::AutoCloseFd memoryWith(const std::string& content);
std::string contentOf(int fd);

// A coordinator that the supervisor has started.
class Incarnation {
 public:
  explicit Incarnation(kj::AutoCloseFd connection);

  pid_t pid() const { return pid_; }

  // The messages that a coordinator gets as it starts.
  struct Introduction {
    std::vector<std::string> names;  // names of the fds, in their order
    std::map<std::string, kj::AutoCloseFd> fds;
    std::vector<std::string> events, lost;
    std::string number, died, upgradeGivenUp;
    std::optional<std::string> end;
    bool managed = false, asked = false;
    std::uint64_t diedAt = 0;
  };
  Introduction introduction();

  // The next word, which must have this verb.
  process::FdChannel::Message expect(const std::string& verb);
  // The next message with this verb, whatever comes before it.
  process::FdChannel::Message skipTo(const std::string& verb);
  // The next word, whatever it is.
  process::FdChannel::Message next();
  // Has it say something to the supervisor; returns when that is on its way.
  void say(const std::string& verb, const std::string& name = "", int fd = -1);
  // Has it do something by itself (fake_coordinator.cpp).
  void order(const std::string& verb, const std::string& name = "") { channel_.send(verb, name); }
  void signal(int number) const;
  // SIGKILL; returns when it is dead.
  void kill() const;

 private:
  process::FdChannel channel_;
  pid_t pid_ = 0;
  kj::AutoCloseFd pidfd_;
};

struct Beginning {
  supervisor::FdStore kept;
  std::chrono::milliseconds watchdog{600'000}, startLimit{600'000};
  int pingMs = -1;
  std::function<void()> inChild;  // before the supervisor is made
  // What a service manager gives it, as fds from 3 on: puts them there and returns their names.
  std::function<std::string()> given;
};

class Supervised {
 public:
  explicit Supervised(Beginning setup = {});
  // Ends it by force, if the test has not seen its end.
  ~Supervised();
  Supervised(const Supervised&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  // SIGSTOP; returns when it has stopped.
  void stop() const;
  // The next coordinator that is started.
  Incarnation next();
  // Readable when there is one. Borrowed.
  int nextIsThere() const { return listening_.get(); }
  // Returns when the first coordinator was taken for ready.
  void awaitReady();
  // Waits for the supervisor's end. 128 + the signal where it was killed.
  int exitCode();

  // Coordinators cannot be started until makeStartable().
  void makeUnstartable();
  void makeStartable();

 private:
  void run(Beginning setup, int ready);

  std::string directory_;
  kj::AutoCloseFd listening_;
  kj::AutoCloseFd ready_;
  pid_t pid_ = -1;
  kj::AutoCloseFd pidfd_;
};

// Starts, has the first coordinator introduced and ready.
Incarnation begin(Supervised& supervised);

}  // namespace faultline::test
