// The service manager above the supervisor: systemd where it started us (sd_notify(3)), else none.
//
// Its fd store (FileDescriptorStoreMax= of the unit) outlives even the supervisor: what is kept here is kept
// there as well and comes back by sd_listen_fds_with_names(3). fd names must not contain ':'.
#pragma once

#include <chrono>
#include <string>

#include "supervisor/fd_store.h"

namespace faultline::supervisor {

// Single-threaded. Without NOTIFY_SOCKET in the environment every call does nothing.
class ServiceManager {
 public:
  ServiceManager();

  // What it kept for a supervisor before us, or made for us (socket activation), by name. Once.
  static void giveBack(FdStore& kept);

  bool there() const { return there_; }
  void keep(const std::string& name, int fd);  // `fd` is borrowed
  void drop(const std::string& name);
  void ready();
  void stopping();
  // Shows that we are alive, when that is due (WatchdogSec= of the unit).
  void beat();
  // When beat() is due next; far away where nobody asks for it.
  std::chrono::steady_clock::time_point nextBeat() const { return nextBeat_; }

 private:
  const bool there_;
  std::chrono::microseconds interval_{0};
  std::chrono::steady_clock::time_point nextBeat_ = std::chrono::steady_clock::time_point::max();
};

}  // namespace faultline::supervisor
