// The coordinator's end of the channel to its supervisor, which holds what must outlive it.
//
// What is kept, by name, is all that a successor begins with:
//   control                        the listening control socket
//   counters                       of the service (coordinator/service_counters.h)
//   listener.NAME.{source,spec,listen}   a handshake socket (the supervisor accepts on it), in the order
//   stored listener.NAME.conn.SEQ         an accepted target whose handshake is not yet served
//   election                       that no two coordinators serve (coordinator/election.h)
//   restore.ID.{uffd,source,conn,target,touches,segment}  a restore; `segment` is stored last and makes it
//                                  durable
//   shard.INDEX.{pidfd,channel}    a shard process; `channel` is stored last
//   program.shard                  the shard of our own build (process/build.h); not to be dropped
//   failpoint.POINT.ACTION.SKIP.PAGE.{resume,reached}  tests only
#pragma once

#include <kj/async-unix.h>
#include <kj/io.h>

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "process/fd_channel.h"

namespace faultline::coordinator {

// The state that a predecessor, or the operator's configuration, left.
struct Inheritance {
  std::map<std::string, kj::AutoCloseFd> fds;
  std::vector<std::string> events;
  std::set<std::string> lost;  // names that are to be kept and whose fds the supervisor had no room for
  std::uint32_t incarnation = 1;
  std::string death;               // why the predecessor died; empty: there was none
  std::uint64_t deathNoticed = 0;  // ns, CLOCK_MONOTONIC
  std::string upgradeGivenUp;      // why the supervisor went back to this build; empty: it did not

  // Takes an fd out; -1 where there is none of that name.
  kj::AutoCloseFd take(const std::string& name);
};

// Loop thread only.
class SupervisorLink {
 public:
  explicit SupervisorLink(kj::AutoCloseFd channel, kj::UnixEventPort& port);

  // Reads what was left; blocks until the supervisor says that it was all. To be called once, first of all.
  // Throws where there is no room for an fd: a restore that is half there must not be taken for one that was
  // half begun.
  Inheritance inherit();

  // Safe once it returns, even if we die then: the message lies in the supervisor's queue.
  void store(const std::string& name, int fd);
  void drop(const std::string& name);
  void event(const std::string& text) { send("event", text); }
  void ready() { send("ready"); }
  void alive() { send("alive"); }
  void shutdown() { send("shutdown"); }

  // Has the supervisor start these programs in our place: it says "leave" then.
  void upgrade(const std::string& directory, int coordinator, int shard);

  // Handlers of the supervisor's messages; they must not throw.
  struct Words {
    // A connection that it has accepted; -1: there was no room for it here.
    std::function<void(const std::string& name, kj::AutoCloseFd fd)> accepted;
    // It had no room for the fd of this name.
    std::function<void(const std::string& name)> lost;
  };
  // Receives until the supervisor is gone, or this coordinator is to leave for a successor. Resolves then.
  enum class End { supervisorGone, leave };
  kj::Promise<End> receive(Words words);

 private:
  void send(const std::string& verb, const std::string& name = "", int fd = -1);

  process::FdChannel channel_;
  kj::UnixEventPort::FdObserver observer_;
};

}  // namespace faultline::coordinator
