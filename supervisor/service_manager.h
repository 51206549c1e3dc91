// The service manager above the supervisor: systemd where it started us (sd_notify(3)), else none.
//
// Its fd store (FileDescriptorStoreMax= of the unit) outlives even the supervisor: what is kept here is kept
// there as well and comes back by sd_listen_fds_with_names(3). An fd that it has given is never sent back to it:
// each fd that is stored costs it a comparison with all that it has.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "supervisor/fd_store.h"
#include "supervisor/stored_names.h"

namespace faultline::supervisor {

// Single-threaded. Without NOTIFY_SOCKET in the environment every call does nothing.
class ServiceManager {
 public:
  ServiceManager();

  // Puts into `kept` what it kept for a supervisor before us, or made for us (socket activation), by name. The
  // first of one name counts: a socket unit's comes before what is stored. To be called once, before anything else.
  void giveBack(FdStore& kept);

  // Whether restores are among what it has to give back. Before that is asked for.
  static bool givesRestores();

  bool there() const { return there_; }
  // Has it keep what is in `kept`, and nothing else that it has given back.
  void keepAll(const FdStore& kept);
  void keep(const std::string& name, const SharedFd& fd);
  void drop(const std::string& name);
  // Everything, the index too.
  void dropAll();
  // READY=1, once; STATUS=; STOPPING=1.
  void ready();
  void status(const std::string& line);
  void stopping();
  // Says that an end which takes so long is meant (EXTEND_TIMEOUT_USEC=).
  void extend(std::chrono::microseconds time);
  // Shows that we are alive, when that is due (WatchdogSec= of the unit).
  void beat();
  // When beat() is due next; far away where it is asked for by none.
  std::chrono::steady_clock::time_point nextBeat() const { return nextBeat_; }

 private:
  void notify(const std::string& state) const;
  void store(const std::string& stored, int fd) const;
  void removeStored(const std::string& stored) const;
  void storeIndex();
  // The place where the same open file description is stored already; empty: nowhere.
  std::string placeOf(int fd) const;
  void remember(const std::string& name, const SharedFd& fd);
  void forget(const std::string& name);

  const bool there_;
  std::chrono::microseconds interval_{0};
  std::chrono::steady_clock::time_point nextBeat_ = std::chrono::steady_clock::time_point::max();
  StoredNames names_;
  std::uint64_t indexNumber_ = 0;
  std::map<std::string, SharedFd> fds_;  // by name
  // Which file it is, of each: only fds of one file can be of one open file description.
  using File = std::pair<std::uint64_t, std::uint64_t>;  // device, inode
  static File fileOf(int fd);
  std::multimap<File, std::string> namesByFile_;
  std::string status_;
};

}  // namespace faultline::supervisor
