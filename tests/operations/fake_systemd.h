// A service manager with an fd store, as far as a page server sees it (sd_notify(3), sd_listen_fds(3)).
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "threads/mutex.h"

namespace faultline::test {

// Starts `faultline serve` again and again, each time with what the one before it left. Everything that a
// service started is dead when it has ended, as with a control group.
class FakeSystemd {
 public:
  // `arguments`: of `faultline serve`.
  explicit FakeSystemd(std::vector<std::string> arguments);
  ~FakeSystemd();
  FakeSystemd(const FakeSystemd&) = delete;

  // Socket activation: given to the next service under this name.
  void give(const std::string& name, kj::AutoCloseFd fd);
  // `more`: arguments that the unit has been given since.
  void start(const std::vector<std::string>& more = {});
  // Signals the service's main process and waits for its end. Its exit code, 128 + the signal where it was
  // killed.
  int end(int signal);
  // SIGKILL to all of its processes at once.
  void kill();
  // Names of the kept fds.
  std::vector<std::string> kept();

 private:
  void hear();
  void take(const std::string& text, kj::AutoCloseFd fd) REQUIRES(mutex_);

  const std::vector<std::string> arguments_;
  std::string directory_;
  kj::AutoCloseFd socket_, stop_;
  threads::Mutex mutex_;
  std::multimap<std::string, kj::AutoCloseFd> kept_ GUARDED_BY(mutex_);
  pid_t pid_ = -1;
  std::thread hearing_;
};

}  // namespace faultline::test
