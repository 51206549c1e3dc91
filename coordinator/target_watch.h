// The watch over a restore's target: whether its process, its connection and its memory are there still, and the end of
// it where the operator wants it killed.
#pragma once

#include <kj/async-io.h>
#include <kj/async-unix.h>

#include <optional>
#include <string>
#include <vector>

#include "coordinator/event_log.h"
#include "coordinator/hurried_pause.h"
#include "coordinator/look.h"
#include "coordinator/service_counters.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// How often it is looked what has left a target's memory, of which no event tells.
inline constexpr kj::Duration LOOK_EVERY = 1 * kj::SECONDS;

// The fds that tell of a target, borrowed; -1: not known.
struct TargetFds {
  int uffd;
  int process;     // pidfd of the process that connected
  int connection;  // the handshake's
};

// Loop thread only.
class TargetWatch final : private kj::TaskSet::ErrorHandler {
 public:
  class Owner {
   public:
    // The address space has gone, as `how` says. May come more than once.
    virtual void targetGone(const std::string& how) = 0;
    // Pages that are registered no more; each is told once. Resolves when that is known to the shards.
    virtual kj::Promise<void> pagesGone(std::vector<shm::PageRange> pages) = 0;
    // The target tries to have another userfaultfd served by its connection, which is refused. Resolves when it has been told.
    virtual kj::Promise<void> refused(kj::AutoCloseFd userfaultfd) = 0;
    // Every page has been found gone.
    virtual void nothingLeft() = 0;
    // The process that connected was killed, and was not the one that has the memory.
    virtual void anotherKilled() = 0;
    // The watch itself cannot go on.
    virtual void watchFailed(const kj::Exception& exception) = 0;
    // Whether the watch is over: nothing is to be watched any more.
    virtual bool over() const = 0;

   protected:
    ~Owner() = default;
  };

  // Borrows all but `io`'s timer; the memory is the segment's regions.
  TargetWatch(kj::AsyncIoContext& io, shm::Segment& segment, TargetFds fds, EventLog& log,
              ServiceTotals& totals, Owner& owner);

  // Watches from now on, until the owner is over.
  void start();
  // Whether the address space is there; if it has gone, the owner is told, `how` it was noticed. Never fails.
  kj::Promise<Presence> look(std::string how);

  // Pages that we have unregistered: that they are is no news. While there are some, no look tells that nothing is
  // left, until the peer has taken its leave.
  void released(const std::vector<shm::PageRange>& pages) { look_.leaveOut(pages); }

  // Kills the process that connected, saying why; true where that is done, by this call or one before. The restore goes
  // on until its memory has gone: were the uffd closed before, a thread that still runs would read zeros.
  bool kill(const std::string& reason);
  // Why it was killed.
  const std::optional<std::string>& killed() const { return killed_; }

 private:
  kj::Promise<void> watchProcess();
  kj::Promise<void> watchConnection();
  kj::Promise<void> watchMemory(kj::Duration pause);
  kj::Promise<void> saw(Sight sight);
  kj::Promise<void> peerGone();
  void taskFailed(kj::Exception&& exception) override { owner_.watchFailed(exception); }

  kj::Timer& timer_;
  shm::Segment& segment_;
  const TargetFds fds_;
  EventLog& log_;
  ServiceTotals& totals_;
  Owner& owner_;
  Look look_;
  kj::Maybe<kj::Own<kj::UnixEventPort::FdObserver>> process_, connection_;
  std::optional<std::string> killed_;
  HurriedPause pause_;  // between two looks at the memory
  bool left_ = false;   // the peer has closed its end of a connection that was to stay
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
