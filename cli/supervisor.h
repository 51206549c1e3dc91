// The supervisor: parent of the coordinator, and holder of everything that must outlive it.
//
// It keeps file descriptors by name, accepts connections on kept listening sockets (so that no target's
// connection dies with a coordinator), starts the next coordinator when one dies, and kills one that has
// stopped answering. It knows nothing of restores and parses nothing of what it keeps, which is why it hardly
// can die.
//
// Words on the channel (rpc/fd_channel.h), coordinator to supervisor:
//   store NAME + fd, drop NAME, ready, alive, event TEXT, shutdown (my end is meant: do not start another)
// supervisor to coordinator, at each start:
//   fd NAME + fd (all that is kept), event TEXT (the latest), incarnation N, died WHY and diedat NS (if
//   another was there before), start; then conn NAME + fd for each accepted connection.
// A kept socket whose name ends in ".listen" is accepted on; its connections are kept as "....conn.N" and
// handed over until they are dropped.
#pragma once

#include <kj/io.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/fd_store.h"
#include "rpc/fd_channel.h"
#include "rpc/process.h"

namespace faultline::cli {

struct SupervisorOptions {
  std::string executable;  // the coordinator
  std::vector<std::string> arguments;
  std::chrono::milliseconds watchdog{2000};      // of silence, before a coordinator is replaced
  std::chrono::milliseconds startLimit{10'000};  // of silence, before it is ready
  std::function<void()> whenReady;               // once, when the first coordinator serves
};

// Single-threaded; one a process (it handles SIGCHLD, SIGTERM and SIGINT, and reaps every child).
class Supervisor {
 public:
  // `kept`: what the first coordinator begins with.
  Supervisor(SupervisorOptions options, FdStore kept);

  // Returns the exit code: 0 after an orderly end, 1 where the coordinator cannot be started at all.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  void startCoordinator();
  void coordinatorEnded();
  void receive();
  void handle(rpc::FdChannel::Message message);
  void acceptOn(const std::string& name, int listening);
  void onSignals();
  void replaceSilent();
  void reap();
  int waitMs() const;
  void endEverything();

  const SupervisorOptions options_;
  FdStore kept_;
  std::deque<std::string> events_;
  kj::AutoCloseFd signals_;
  std::optional<rpc::FdChannel> channel_;
  std::optional<rpc::ChildProcess> coordinator_;
  std::uint32_t incarnation_ = 0;
  std::string death_;
  std::uint64_t deathNoticed_ = 0;  // ns, CLOCK_MONOTONIC
  bool ready_ = false, everReady_ = false, ending_ = false;
  unsigned terminations_ = 0;
  unsigned quickDeaths_ = 0;
  Clock::time_point started_, heard_, startAt_;
  std::map<std::string, std::uint64_t> accepted_;  // by listener: how many in all
};

}  // namespace faultline::cli
