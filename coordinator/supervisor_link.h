// The coordinator's end of the channel to its supervisor, which holds what must outlive it.
//
// The fds that are kept, by name (process/kept_name.h), are all that a successor begins with.
#pragma once

#include <kj/async-unix.h>
#include <kj/io.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "process/fd_channel.h"
#include "process/kept_name.h"

namespace faultline::coordinator {

// The state that a predecessor, or the operator's configuration, left.
struct Inheritance {
  std::map<process::KeptName, kj::AutoCloseFd> fds;
  // Names that are kept and are none of ours: another build's, or put there by hand. Left as they are.
  std::vector<std::string> foreign;
  std::vector<std::string> events;
  std::set<process::KeptName> lost;  // names that are to be kept and whose fds the supervisor had no room for
  std::uint32_t incarnation = 1;
  std::string death;               // why the predecessor died; empty: there was none
  std::uint64_t deathNoticed = 0;  // ns, CLOCK_MONOTONIC
  bool asked = false;              // left because it was told to
  bool managed = false;            // a service manager keeps everything, too, and would start us anew
  std::optional<bool> end;         // the service is to end; whether at once
  std::string upgradeGivenUp;      // why the supervisor went back to this build; empty: it did not

  // Takes an fd out; -1 where there is none of that name.
  kj::AutoCloseFd take(const process::KeptName& name);
  // The names of this form, in their order.
  std::vector<process::KeptName> names(process::KeptName::Kind kind, process::KeptName::Part part) const;
};

// Loop thread only.
class SupervisorLink {
 public:
  explicit SupervisorLink(kj::AutoCloseFd channel, kj::UnixEventPort& port);

  // Reads what was left; blocks until the supervisor says that it was all. To be called once, first of all.
  // Throws where there is no room for an fd: a restore that is half there must not be taken for one that was
  // half begun.
  Inheritance inherit();

  // The calls wait for a moment at most (100 ms), and once: a supervisor that stands still must not stop what is served.
  // A message is safe even if we die after the return, unless blocked(): it lies in the supervisor's queue. While
  // blocked() it waits here, in its order; signs of life do not, and of many events the first are lost.
  void store(const process::KeptName& name, int fd);
  void drop(const process::KeptName& name);
  void event(const std::string& text) { send("event", text); }
  void ready() { send("ready"); }
  void alive();
  // For people: STATUS= of the service. Sent when it has changed.
  void status(const std::string& line);
  // The service begins to end, gets on with that, has ended.
  void ending() { send("ending"); }
  void progress() { send("progress"); }
  // The last word: waits a moment for a supervisor that stands still.
  void shutdown();
  // The supervisor takes nothing now.
  bool blocked() const { return !waiting_.empty(); }

  // Has the supervisor start these programs in our place: it says "leave" then. `fetcher`: -1 where the build has none.
  void upgrade(const std::string& directory, int coordinator, int shard, int fetcher);

  // Handlers of the supervisor's messages; they must not throw.
  struct Words {
    // A connection that it has accepted; -1: there was no room for it here.
    std::function<void(const process::KeptName& name, kj::AutoCloseFd fd)> accepted;
    // The supervisor had no room for the fd of this name.
    std::function<void(const process::KeptName& name)> lost;
    // The service is to end; `now`: without fetching what is missing.
    std::function<void(bool now)> end;
  };
  // Receives until the supervisor is gone, or this coordinator is to leave for a successor. Resolves then.
  enum class End { supervisorGone, leave };
  kj::Promise<End> receive(Words words);

 private:
  struct Waiting {
    std::string verb, name;
    kj::AutoCloseFd fd;  // a duplicate; may be -1
  };
  void send(const std::string& verb, const std::string& name = "", int fd = -1);
  bool sendNow(const std::string& verb, const std::string& name, int fd,
               std::chrono::milliseconds patience = std::chrono::milliseconds(0));
  bool flush();
  kj::Promise<void> flushLater();

  process::FdChannel channel_;
  kj::UnixEventPort::FdObserver observer_;
  std::deque<Waiting> waiting_;
  std::size_t eventsWaiting_ = 0;
  kj::Promise<void> flushing_ = nullptr;
  std::string status_;
};

}  // namespace faultline::coordinator
