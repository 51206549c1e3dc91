#include "coordinator/target_watch.h"

#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "coordinator/handshake.h"
#include "process/process.h"

namespace faultline::coordinator {

namespace {

constexpr kj::Duration LOOK_ON = 100 * kj::MILLISECONDS;  // after a look that has more to look at

// Whether the peer has closed its end, or that for sending. Bytes to read are no sign: a peer may say more than its handshake,
// and a predecessor may have died before it took that.
bool hungUp(int connection) {
  pollfd poll{connection, POLLRDHUP, 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

kj::Maybe<kj::Own<kj::UnixEventPort::FdObserver>> observe(kj::AsyncIoContext& io, int fd) {
  if (fd < 0) return nullptr;
  return kj::heap<kj::UnixEventPort::FdObserver>(io.unixEventPort, fd,
                                                 kj::UnixEventPort::FdObserver::OBSERVE_READ);
}

}  // namespace

TargetWatch::TargetWatch(kj::AsyncIoContext& io, shm::Segment& segment, TargetFds fds, EventLog& log,
                         ServiceTotals& totals, Owner& owner)
    : timer_(io.provider->getTimer()),
      segment_(segment),
      fds_(fds),
      log_(log),
      totals_(totals),
      owner_(owner),
      look_(segment.regions().entries()),
      process_(observe(io, fds.process)),
      connection_(observe(io, fds.connection)),
      pause_(timer_),
      tasks_(*this) {}

void TargetWatch::start() {
  tasks_.add(watchProcess());
  tasks_.add(watchConnection());
  tasks_.add(watchMemory(LOOK_EVERY));
}

// Looks before it waits: what happened while nothing waited, as in a takeover, the observer does not tell.
kj::Promise<void> TargetWatch::watchProcess() {
  return kj::evalLater([this]() -> kj::Promise<void> {
    KJ_IF_MAYBE (observer, process_) {
      if (!process::hasEnded(fds_.process))
        return (*observer)->whenBecomesReadable().then([this] { return watchProcess(); });
      return peerGone();
    }
    return kj::READY_NOW;
  });
}

// The memory of a process goes before its pidfd tells, and its sockets after its memory (kernel/exit.c, do_exit). Memory that is
// there still is another's, whose userfaultfd a launcher has handed over, say: were that closed now, it would read zeros.
kj::Promise<void> TargetWatch::peerGone() {
  return look("the target has gone").then([this](Presence memory) -> kj::Promise<void> {
    if (owner_.over() || memory == Presence::gone) return kj::READY_NOW;
    if (memory == Presence::unknown) return timer_.afterDelay(LOOK_EVERY).then([this] { return peerGone(); });
    spdlog::info("restore {}: who connected has gone, its memory is there still and is served on",
                 segment_.name());
    if (killed_.has_value()) owner_.anotherKilled();
    return kj::READY_NOW;
  });
}

// After the handshake the connection tells two things: that the peer takes its leave, where it was to stay (watchSocket), and
// that a peer tries to hand over another userfaultfd, which would not be read.
kj::Promise<void> TargetWatch::watchConnection() {
  return kj::evalLater([this]() -> kj::Promise<void> {
    if (owner_.over()) return kj::READY_NOW;
    KJ_IF_MAYBE (observer, connection_) {
      Received received = receiveMore(fds_.connection, fds_.uffd);
      switch (received.what) {
        case Received::What::more:
          return timer_.afterDelay(0 * kj::SECONDS).then([this] { return watchConnection(); });
        case Received::What::nothing:
          if (!hungUp(fds_.connection))
            return (*observer)->whenBecomesReadable().then([this] { return watchConnection(); });
          if (segment_.header().watchSocket.load() == 0) return kj::READY_NOW;
          if (fds_.process < 0) return peerGone();
          // A peer that lives on has unregistered its memory before. It waits for the end of the restore before it uses the
          // addresses for something else.
          left_ = true;
          pause_.hurry();
          return kj::READY_NOW;
        case Received::What::anotherHandshake:
          shm::count(totals_.targetsRefused);
          log_.add("restore " + segment_.name() +
                       ": another handshake came on its connection and is refused: each userfaultfd "
                       "needs a connection of its own; this one is closed, the restore goes on",
                   segment_.name());
          return owner_.refused(kj::mv(received.userfaultfd)).then([this] {
            ::shutdown(fds_.connection, SHUT_RDWR);
          });
      }
    }
    return kj::READY_NOW;
  });
}

// A shard comes upon what has gone only where it has a page to put in place.
kj::Promise<void> TargetWatch::watchMemory(kj::Duration pause) {
  return pause_.pause(pause).then([this]() -> kj::Promise<void> {
    if (owner_.over()) return kj::READY_NOW;
    pause_.lookBegins();
    return kj::evalNow([this] { return look_.look(fds_.uffd); })
        .then([this](Sight sight) {
          const bool more = sight.more;
          return saw(std::move(sight)).then([more] { return more; });
        })
        // A thread or an fd cannot be had just now; or the restore has failed meanwhile.
        .catch_([this](kj::Exception&& e) {
          spdlog::debug("restore {}: {}", segment_.name(), e.getDescription().cStr());
          return false;
        })
        .then([this](bool more) { return watchMemory(more ? LOOK_ON : LOOK_EVERY); });
  });
}

kj::Promise<void> TargetWatch::saw(Sight sight) {
  if (owner_.over()) return kj::READY_NOW;
  if (sight.targetGone) {
    owner_.targetGone("the target's memory has gone");
    return kj::READY_NOW;
  }
  kj::Promise<void> told = kj::READY_NOW;
  if (!sight.gone.empty()) told = owner_.pagesGone(std::move(sight.gone));
  const bool nothingLeft = sight.nothingLeft && (left_ || segment_.header().rangesReleased.load() == 0);
  return told.then([this, nothingLeft] {
    if (nothingLeft && !owner_.over()) owner_.nothingLeft();
  });
}

kj::Promise<Presence> TargetWatch::look(std::string how) {
  return kj::evalNow([this] { return lookWhetherThere(fds_.uffd); })
      .catch_([](kj::Exception&&) { return Presence::unknown; })
      .then([this, how = std::move(how)](Presence presence) {
        if (presence == Presence::gone && !owner_.over()) owner_.targetGone(how);
        return presence;
      });
}

bool TargetWatch::kill(const std::string& reason) {
  if (killed_.has_value()) return true;
  const bool sent = process::sendSignal(fds_.process, SIGKILL);
  const int error = errno;
  if (!sent && error != ESRCH) {
    log_.add("restore " + segment_.name() + ": the target cannot be killed: " + std::strerror(error),
             segment_.name());
    return false;
  }
  // The target had ended before, so watchProcess() has been over it: what it found counts for something else now.
  if (!sent) tasks_.add(kj::evalLater([this] { return peerGone(); }));
  killed_ = "the target was killed, as --on-lost kill wants it: " + reason;
  log_.lost("restore " + segment_.name() + ": " + *killed_, segment_.name());
  return true;
}

}  // namespace faultline::coordinator
