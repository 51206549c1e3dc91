// How a restore ends: released, given up, or lost with its target.
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "coordinator/handshake.h"
#include "coordinator/restore.h"
#include "process/clock.h"
#include "process/duplicate.h"
#include "process/process.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

constexpr kj::Duration LEAVE_CHECK = 200 * kj::MICROSECONDS;
constexpr std::uint64_t LEAVE_PATIENCE = 2'000'000'000;   // ns
constexpr kj::Duration LOOK_ON = 100 * kj::MILLISECONDS;  // after a look that has more to look at
constexpr const char* NOTHING_LEFT = "its memory has left its regions";
// With a shard that is to let go of a restore which ends, and with a target that was killed.
constexpr kj::Duration SHARD_PATIENCE = 2 * kj::SECONDS, KILL_PATIENCE = 10 * kj::SECONDS;

// Bytes to read are no sign: a peer may say more than its handshake, and a predecessor may have died before
// it took that.
bool hungUp(int connection) {
  pollfd poll{connection, 0, 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & (POLLHUP | POLLERR)) != 0;
}

}  // namespace

void Restore::watch() {
  tasks_.add(watchPeer());
  tasks_.add(watchConnection());
  tasks_.add(watchMemory(LOOK_EVERY));
}

// Looks before it waits: what happened while nobody waited, as in a takeover, the observer does not tell.
kj::Promise<void> Restore::watchPeer() {
  return kj::evalLater([this]() -> kj::Promise<void> {
    KJ_IF_MAYBE (observer, peerExit_) {
      if (!process::hasEnded(fds_.target.get()))
        return (*observer)->whenBecomesReadable().then([this] { return watchPeer(); });
      return peerHasGone();
    }
    return kj::READY_NOW;
  });
}

// The memory of a process goes before its pidfd tells, and its sockets after its memory (kernel/exit.c, do_exit). What is
// there still is another's, whose userfaultfd a launcher has handed over, say: were that closed now, it would read zeros.
kj::Promise<void> Restore::peerHasGone() {
  return endIfGone("the target has gone").then([this](Presence memory) -> kj::Promise<void> {
    if (over_ || memory == Presence::gone) return kj::READY_NOW;
    if (memory == Presence::unknown)
      return context_.io.provider->getTimer().afterDelay(LOOK_EVERY).then([this] { return peerHasGone(); });
    spdlog::info("restore {}: who connected has gone, its memory is there still and is served on", name());
    if (!killed_.empty())
      fail(rpc::EndReason::PAGE_LOST, "who connected was killed, and was not who has the memory");
    return kj::READY_NOW;
  });
}

// After the handshake the connection tells two things: that the peer has gone, where it was to stay
// (watchSocket), and that a peer tries to hand over another userfaultfd, which nobody would read.
kj::Promise<void> Restore::watchConnection() {
  return kj::evalLater([this]() -> kj::Promise<void> {
    if (over_) return kj::READY_NOW;
    KJ_IF_MAYBE (observer, connSays_) {
      switch (receiveMore(fds_.conn.get(), fds_.uffd.get())) {
        case Received::more:
          return context_.io.provider->getTimer().afterDelay(0 * kj::SECONDS).then([this] {
            return watchConnection();
          });
        case Received::nothing:
          if (!hungUp(fds_.conn.get()))
            return (*observer)->whenBecomesReadable().then([this] { return watchConnection(); });
          if (fds_.target.get() < 0 && segment_.header().watchSocket.load() != 0) return peerHasGone();
          return kj::READY_NOW;
        case Received::anotherHandshake:
          shm::count(context_.totals.targetsRefused);
          context_.log.add("restore " + name() +
                           ": another handshake came on its connection and is refused: each userfaultfd "
                           "needs a connection of its own; this one is closed, the restore goes on");
          ::shutdown(fds_.conn.get(), SHUT_RDWR);
          return kj::READY_NOW;
      }
    }
    return kj::READY_NOW;
  });
}

// A shard comes upon what has gone only where it has a page to put in place.
kj::Promise<void> Restore::watchMemory(kj::Duration pause) {
  return context_.io.provider->getTimer().afterDelay(pause).then([this]() -> kj::Promise<void> {
    if (over_) return kj::READY_NOW;
    return kj::evalNow([this] { return look_.look(fds_.uffd.get()); })
        .then([this](Sight sight) { return saw(sight).then([more = sight.more] { return more; }); })
        // No thread, or no fd for it, can be had just now; or the restore has failed meanwhile.
        .catch_([this](kj::Exception&& e) {
          spdlog::debug("restore {}: {}", name(), e.getDescription().cStr());
          return false;
        })
        .then([this](bool more) { return watchMemory(more ? LOOK_ON : LOOK_EVERY); });
  });
}

// The marks are set under the write side, where no section spans them.
kj::Promise<void> Restore::saw(const Sight& sight) {
  if (over_) return kj::READY_NOW;
  if (sight.targetGone) {
    targetHasGone("the target's memory has gone");
    return kj::READY_NOW;
  }
  kj::Promise<void> marked = kj::READY_NOW;
  if (!sight.gone.empty() && phase_ != Phase::failed && reader_.get() != nullptr)
    marked = inReader_.wrap(reader_->exclusively([this, gone = sight.gone](const shm::ExclusiveGuard& guard) {
      for (const shm::PageRange& range : gone) segment_.pages().markGone(guard, range);
    }));
  return marked.then([this, nothingLeft = sight.nothingLeft] {
    if (nothingLeft) end(rpc::EndReason::TARGET_GONE, NOTHING_LEFT, Release::yes);
  });
}

kj::Promise<Presence> Restore::endIfGone(std::string how) {
  return kj::evalNow([this] { return lookWhetherThere(fds_.uffd.get()); })
      .catch_([](kj::Exception&&) { return Presence::unknown; })
      .then([this, how = std::move(how)](Presence presence) {
        if (presence == Presence::gone && !over_) targetHasGone(how);
        return presence;
      });
}

void Restore::targetHasGone(const std::string& how) {
  if (killed_.empty())
    end(rpc::EndReason::TARGET_GONE, how, Release::no);
  else
    end(rpc::EndReason::TARGET_KILLED, killed_, Release::no);
}

void Restore::end(rpc::EndReason reason, const std::string& text, Release release) {
  // A target that has gone ends a release that is under way.
  if (over_ || (ending_ && release == Release::yes)) return;
  if (!ending_) {
    spdlog::info("restore {}: {}", name(), text);
    // The reason of a failure outlives the end: the restore is over because its target is.
    const bool failed = phase_ == Phase::failed && reason != rpc::EndReason::TARGET_KILLED;
    end_ = {failed ? failure_ : reason, failed ? text + "; it had failed: " + failureText_ : text, 0};
  }
  ending_ = true;
  if (release == Release::no) {
    tasks_.add(missing().then([this](std::uint64_t missing) {
      end_.missing = missing;
      finish();
    }));
    return;
  }
  if (reader_.get() != nullptr && reader_->paused()) reader_->resume();
  tasks_.add(letGo());
}

void Restore::finishUp(const std::string& text) {
  if (over_ || ending_ || finishing_) return;
  finishing_ = true;
  if (phase_ == Phase::paused) resume();
  fetchMissing(text, ~0ull);
}

void Restore::shutDown(const std::string& text) {
  tasks_.add(missing().then([this, text](std::uint64_t missing) {
    end(missing > 0 ? rpc::EndReason::LOST_AT_SHUTDOWN : rpc::EndReason::SHUT_DOWN, text, Release::yes);
  }));
}

kj::Promise<std::uint64_t> Restore::missing() {
  return counts().then([](const shm::PageCounts& counts) { return counts.missing; });
}

// Round after round, until one brings nothing: what it left out may be to be had in the next.
void Restore::fetchMissing(const std::string& text, std::uint64_t before) {
  tasks_.add(missing().then([this, text, before](std::uint64_t missing) -> kj::Promise<void> {
    if (over_ || phase_ == Phase::failed || missing == 0 || missing >= before) {
      shutDown(text);
      return kj::READY_NOW;
    }
    auto job = population_.begin({});
    return job->whenFinished().then([this, job, text, missing] { fetchMissing(text, missing); });
  }));
}

// Zeros in place of what the snapshot has would be wrong bytes: what is missing is made an error before
// anything is unregistered, or the target is killed before any fd is closed.
kj::Promise<void> Restore::letGo() {
  return missing()
      .then([this](std::uint64_t missing) -> kj::Promise<void> {
        if (over_) return kj::READY_NOW;
        end_.missing = missing;
        return missing == 0 && phase_ != Phase::failed ? depart() : departIncomplete();
      })
      .catch_(
          [this](kj::Exception&& e) { return keepOn(e.getDescription().cStr()); });  // no thread, or no fd
}

kj::Promise<void> Restore::depart() {
  return coordinator::depart(departure(DepartureOrder::Poison::nothing)).then([this](Departed how) {
    return departed(how);
  });
}

kj::Promise<void> Restore::departIncomplete() {
  const bool failed = phase_ == Phase::failed;
  // No memory of its own is no reason to kill a target.
  return anyRegistered(departure(DepartureOrder::Poison::nothing)).then([this, failed](bool any) {
    if (over_) return kj::Promise<void>(kj::READY_NOW);
    if (any) return loseMissing();
    if (!failed) end_ = {rpc::EndReason::TARGET_GONE, NOTHING_LEFT, 0};
    return depart();
  });
}

DepartureOrder Restore::departure(DepartureOrder::Poison poison) const {
  DepartureOrder order{process::duplicate(fds_.uffd.get()), {}, poison};
  for (const shm::RegionEntry& region : segment_.regions().entries()) order.regions.push_back(region);
  if (poison == DepartureOrder::Poison::missing) order.segment = process::duplicate(segment_.fd());
  if (fds_.target.get() >= 0) order.target = process::duplicate(fds_.target.get());
  order.faultedOutside = outside_;
  return order;
}

kj::Promise<void> Restore::loseMissing() {
  const std::string missing = std::to_string(end_.missing);
  if (killsOnLost() && kill(missing + " pages are missing, and the restore ends")) {
    context_.log.lost("restore " + name() + ": " + missing + " pages could not be fetched before its end (" +
                      end_.text + "); its target is killed");
    // Where it was not who has the memory, that gets errors.
    return context_.io.provider->getTimer().afterDelay(KILL_PATIENCE).then([this] {
      return over_ ? kj::Promise<void>(kj::READY_NOW) : poisonMissing();
    });
  }
  return poisonMissing();
}

kj::Promise<void> Restore::poisonMissing() {
  return leaveShards()
      .then([this] {
        departing_ = true;
        return coordinator::depart(departure(phase_ == Phase::failed ? DepartureOrder::Poison::unmapped
                                                                     : DepartureOrder::Poison::missing));
      })
      .then([this](Departed how) { return departed(how); });
}

// What is at work on the restore must be out of its sections, and begin no other: a shard that does not let
// go in time is killed.
kj::Promise<void> Restore::leaveShards() {
  auto leaving = kj::Vector<kj::Promise<void>>();
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++) {
    ShardHandle* shard = context_.pool.process(i);
    if (shard == nullptr || !shard->serves(id())) continue;
    auto late =
        context_.io.provider->getTimer().afterDelay(SHARD_PATIENCE).then([this, i, pid = shard->pid()] {
          if (context_.pool.lives(i, pid))
            context_.pool.fence(i, "it does not let go of restore " + name() + ", which ends");
        });
    leaving.add(shardLeaves(*shard).catch_([](kj::Exception&&) {}).exclusiveJoin(kj::mv(late)));
  }
  return kj::joinPromises(leaving.releaseAsArray());
}

kj::Promise<void> Restore::departed(Departed how) {
  if (over_) return kj::READY_NOW;
  shm::count(context_.totals.pagesLost, how.poisoned);
  if (how.poisoned > 0)
    context_.log.lost("restore " + name() + ": " + std::to_string(how.poisoned) +
                      " pages could not be fetched before its end (" + end_.text +
                      "); its target gets SIGBUS on them");
  if (how.unsupported) {
    const std::string pages = std::to_string(end_.missing);
    const bool killed = fds_.target.get() >= 0 && kill("this kernel cannot poison pages (Linux 6.6 can)");
    context_.log.lost("restore " + name() + ": " + pages + " pages could not be fetched before its end (" +
                      end_.text + "), and this kernel cannot poison them: its target " +
                      (killed ? "is killed" : "waits for them, or reads zeros: kill it"));
  }
  if (how.unnamed > 0)
    spdlog::info("restore {}: {} bytes that were registered, and named in no region, are registered no more",
                 name(), how.unnamed);
  if (how.kept == 0) return leave(process::nowNs() + LEAVE_PATIENCE);
  char first[32];
  snprintf(first, sizeof first, "0x%llx", static_cast<unsigned long long>(how.firstKept));
  return keepOn(std::to_string(how.kept) + " bytes of it, the first at " + first +
                ", cannot be unregistered (has the target as many mappings as vm.max_map_count allows?)");
}

// Registered memory without a server would have its threads wait for ever, or read zeros.
kj::Promise<void> Restore::keepOn(const std::string& why) {
  if (over_) return kj::READY_NOW;
  if (!std::exchange(kept_, true))
    context_.log.add("restore " + name() +
                     ": its target's memory cannot be let go, and is served until it can: " + why);
  // Where the shards have it no more, what faults there gets an error.
  if (departing_ && reader_.get() != nullptr) reader_->answerAlone();
  return context_.io.provider->getTimer().afterDelay(LOOK_EVERY).then([this] {
    return over_ ? kj::Promise<void>(kj::READY_NOW) : letGo();
  });
}

// Waits until no event is in flight, at most until `deadline` (ns); run() reads on. The ranges are
// unregistered, so no removal can begin. A stopped target keeps its event in flight for ever, hence the
// deadline.
kj::Promise<void> Restore::leave(std::uint64_t deadline) {
  if (!over_ && uffd::eventInFlight(fds_.uffd.get()) && process::nowNs() < deadline)
    return context_.io.provider->getTimer().afterDelay(LEAVE_CHECK).then([this, deadline] {
      return leave(deadline);
    });
  finish();
  return kj::READY_NOW;
}

void Restore::finish() {
  if (over_) return;
  over_ = true;
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++)
    if (ShardHandle* shard = context_.pool.process(i)) shardLeaves(*shard).detach([](kj::Exception&&) {});
  drop(context_.link, id(), fds_.source.size());
  readyFulfiller_->fulfill();
  completeFulfiller_->fulfill();
  overFulfiller_->fulfill();
}

// An exception that is no answer of ours came from below: the segment makes no sense, or the server failed.
void Restore::failOf(const kj::Exception& exception) {
  fail(rpc::EndReason::SERVER_FAILED, rpc::refusalOf(exception).message);
}

void Restore::fail(rpc::EndReason reason, const std::string& text) {
  if (phase_ == Phase::failed || ending_) return;
  phase_ = Phase::failed;
  failure_ = reason;
  failureText_ = text;
  shm::count(context_.totals.restoresFailed);
  segment_.header().state.store(shm::SegmentState::failed);
  // Killed before a fault is answered: no thread goes on without its page.
  const bool killing = killsOnLost() && kill(text);
  context_.log.add("restore " + name() + " has failed: " + text +
                   (killing ? "" : "; the target gets SIGBUS on every page it still misses"));
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++) router_.setAttached(i, false);
  population_.giveUp();
  // Not from within the promise that has just failed.
  tasks_.add(kj::evalLater([this] {
    reading_ = nullptr;
    inReader_.cancel("the restore has failed");
    reading_ =
        bury().eagerlyEvaluate([](kj::Exception&& e) { spdlog::error("{}", e.getDescription().cStr()); });
  }));
  completeFulfiller_->fulfill();
  readyFulfiller_->fulfill();
}

// To read an event is to tell its caller to go on, so every section that began before the restore failed has
// to end first: with the lock; or, where that is what failed, with the shards.
kj::Promise<void> Restore::bury() {
  return reader_->exclusively([](const shm::ExclusiveGuard&) {})
      .catch_([this](kj::Exception&&) {
        return context_.pool.endAll("restore " + name() +
                                    " has failed, and its lock cannot tell what is at work on it");
      })
      .then([this] {
        reader_ = nullptr;
        undertaker_ = kj::heap<Undertaker>(context_.io, fds_.uffd.get(), fds_.target.get(), name());
        return undertaker_->run();
      });
}

void Restore::pageLost(shm::PageIndex page) {
  if (over_ || phase_ == Phase::failed) return;
  if (!killsOnLost())
    return fail(rpc::EndReason::PAGE_LOST, "a page is lost and this kernel cannot poison it (Linux 6.6 can)");
  const std::string text = "page " + std::to_string(page) + " is lost";
  // Without fail() the page would never be answered.
  if (!kill(text)) fail(rpc::EndReason::PAGE_LOST, text + " and the target cannot be killed");
}

// The restore itself goes on until the pidfd says that the target has gone: were its uffd closed before, a
// thread that is still running would read zeros.
bool Restore::kill(const std::string& reason) {
  if (!killed_.empty()) return true;
  const bool sent = process::sendSignal(fds_.target.get(), SIGKILL);
  const int error = errno;
  if (!sent && error != ESRCH) {
    context_.log.add("restore " + name() + ": the target cannot be killed: " + std::strerror(error));
    return false;
  }
  if (!sent) tasks_.add(kj::evalLater([this] { return peerHasGone(); }));
  killed_ = "the target was killed, as --on-lost kill wants it: " + reason;
  context_.log.add("restore " + name() + ": " + killed_);
  return true;
}

}  // namespace faultline::coordinator
