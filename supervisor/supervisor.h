// The supervisor: parent of the coordinator, and holder of everything that must outlive it.
//
// The supervisor keeps file descriptors by name, accepts connections on kept listening sockets (so that no
// target's connection dies with a coordinator), starts the next coordinator when one dies, and kills one that
// has stopped answering. Restores are unknown to it and it parses nothing of what it keeps, which is why it
// hardly can die. The exceptions: names (process/kept_name.h), which tell listening sockets and, where no
// coordinator can be started to end the service, the targets that are to be killed; and the index of what a
// service manager stores (stored_names.h), which is its own.
//
// Words on the channel (process/fd_channel.h), coordinator to supervisor:
//   store NAME + fd, drop NAME, ready (faults are served), alive, event TEXT, status TEXT (for people),
//   ending (the service is to end), progress (the end gets on), shutdown (every target is let go: do not
//   start another), program coordinator|shard|fetcher + fd and then upgrade DIRECTORY (start these in my place)
// supervisor to coordinator, at each start:
//   fd NAME + fd (all that is kept), event TEXT (the latest), incarnation N, died WHY and diedat NS (if
//   another was there before) and asked (if that left because it was told to), upgradegivenup WHY (if the last one was), lost NAME (see below), start; then
//   conn NAME + fd for each accepted connection; lost NAME (there was no room for the fd that was to be kept
//   under it: store it again, and do not take what is missing for what never was); managed (a service manager
//   is there), end [now] (the service is to end: let every target go; now: without fetching what it misses);
//   leave (end between two batches, with nothing given back: another comes).
// A kept socket that is called "listener.KEY.listen" is accepted on; its connections are kept as
// "listener.KEY.conn.N" and handed over until they are dropped (supervisor/listening_sockets.h).
//
// A coordinator that dies is replaced at once, and with growing pauses if one after the other dies within a
// second. Only before the first has ever served may the supervisor give up: the coordinator refused its
// configuration or environment (it exited with 64 to 78, sysexits.h, and has said why), or died again and
// again. Later there are targets that would read zeros where their pages are missing.
//
// The programs of its build are held open: what is installed over them is not started until an upgrade asks
// for it. A build that takes over has until its coordinator is ready; if that dies first, or is silent, the
// build before it is started again.
#pragma once

#include <kj/io.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "process/build.h"
#include "supervisor/coordinator_process.h"
#include "supervisor/fd_store.h"
#include "supervisor/listening_sockets.h"
#include "supervisor/programs.h"
#include "supervisor/service_manager.h"

namespace faultline::supervisor {

struct SupervisorOptions {
  std::string executable;  // the coordinator; the file at the path, unless `build` is given
  std::optional<process::Build>
      build;  // started, and named to the coordinator, in place of what is installed
  std::vector<std::string> arguments;
  std::chrono::milliseconds watchdog{2000};      // silence before a coordinator is replaced
  std::chrono::milliseconds startLimit{15'000};  // silence before a coordinator is ready
  std::function<void()> whenReady;               // called once, when the first coordinator serves
};

// Single-threaded; one a process: it takes SIGCHLD, SIGTERM, SIGINT, SIGHUP and SIGUSR1, and reaps every
// child.
class Supervisor {
 public:
  // `kept`: what the first coordinator begins with. `manager`: the one that gave it, or none.
  Supervisor(SupervisorOptions options, FdStore kept, ServiceManager manager = {});

  // SIGTERM, SIGINT and SIGHUP have the coordinator end the service: it says shutdown when every target is
  // let go. The second of them has it fetch nothing more. A coordinator that dies meanwhile is replaced as
  // ever. Returns the exit code: 0 after an orderly end (the coordinator said shutdown), the coordinator's
  // own where that refused to start, 1 where it cannot be started at all. Nothing of ours is left then: no
  // child, no kept fd. LEFT after SIGUSR1: the same, but the service manager has all that was kept, and no
  // target was released. Without a service manager SIGUSR1 does nothing.
  static constexpr int LEFT = 75;  // EX_TEMPFAIL: start me again
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  bool over() const { return !coordinator_.has_value() && (done_ || leaving_ || exitCode_ != 0); }

  void startCoordinator();
  void notStarted(const std::string& why);
  void introduce();
  void coordinatorEnded();
  void planNext(bool quick);
  void beginUpgrade(const std::string& directory);
  void goBack(const std::string& why);
  void dismiss(const std::string& why);

  void pollOnce();
  Clock::time_point nextDue() const;
  void hear();
  void handle(process::FdChannel::Message message);
  void store(process::FdChannel::Message message);
  void tell(const std::string& verb, const std::string& name, SharedFd fd = nullptr);
  void accept(const ListeningSockets::Ready& listener);
  void onSignals();
  void leave();
  void beginEnd();
  void killTargets();
  void replaceSilent();
  void replace(const std::string& why);
  std::chrono::milliseconds silenceLimit() const;

  void reap();
  void endEverything();

  const SupervisorOptions options_;
  Programs programs_;
  std::optional<Clock::time_point> leaveBy_;  // when a coordinator that was told to leave is killed
  FdStore kept_;
  std::set<std::string> lost_;  // to be kept, and the kernel dropped the fd
  ListeningSockets listening_;
  ServiceManager manager_;
  std::deque<std::string> events_;
  kj::AutoCloseFd signals_;
  std::optional<CoordinatorProcess> coordinator_;
  std::uint32_t incarnation_ = 0;
  std::string death_;               // why the last one died
  std::uint64_t deathNoticed_ = 0;  // ns, CLOCK_MONOTONIC
  bool leftAsAsked_ = false;        // the last one did
  std::string complaint_;           // why the present one is being killed; empty: it is not
  unsigned quickDeaths_ = 0;        // in a row
  Clock::time_point startAt_;       // the next one's
  bool everReady_ = false;
  bool ending_ = false;        // to end, and so every restore
  bool done_ = false;          // every restore has ended
  bool leaving_ = false;       // to end, and everything is left to the next one
  unsigned terminations_ = 0;  // signals that asked for the end
  int exitCode_ = 0;
};

}  // namespace faultline::supervisor
