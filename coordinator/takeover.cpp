// How the service takes over what a predecessor left, and what it does where something of that is missing.
#include <capnp/serialize.h>
#include <kj/debug.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "coordinator/armed_name.h"
#include "coordinator/call_inputs.h"
#include "coordinator/service.h"
#include "process/duplicate.h"
#include "process/process.h"

namespace faultline::coordinator {

using process::KeptName;
using Kind = KeptName::Kind;
using Part = KeptName::Part;

namespace {

constexpr kj::Duration STORE_RETRY = 1 * kj::SECONDS;

}  // namespace

void Service::adoptFailpoints() {
  for (const KeptName& name : inherited_.names(Kind::failpoint, Part::resume)) {
    const KeptName reachedName = name.with(Part::reached);
    kj::AutoCloseFd resume = inherited_.take(name), reached = inherited_.take(reachedName);
    link_.drop(name);
    link_.drop(reachedName);
    auto arm = armOf(name.key);
    if (!arm.has_value() || !options_.testHooks) continue;
    arm->reached = kj::mv(reached);
    arm->resume = kj::mv(resume);
    failpoints_.arm(kj::mv(*arm));
  }
}

void Service::adoptListeners() {
  for (const Part part : {Part::specOfCommandLine, Part::specOfConfiguration, Part::specOfCall})
    for (const KeptName& name : inherited_.names(Kind::listener, part)) adoptListener(name);
  // The supervisor accepts: a socket that was open here as well would take connections after it was closed.
  for (const KeptName& name : inherited_.names(Kind::listener, Part::listen)) inherited_.take(name);
}

void Service::adoptListener(const KeptName& name) {
  auto specFd = inherited_.take(name);
  SourceFiles source = coordinator::take(inherited_, name);
  auto failure = kj::runCatchingExceptions([&] {
    KJ_REQUIRE(listeners_.count(name.key) == 0, "another listener has this name already", name.key);
    KJ_REQUIRE(!source.empty(), "the listener's source is not there");
    KJ_SYSCALL(lseek(specFd.get(), 0, SEEK_SET));
    capnp::StreamFdMessageReader message(specFd.get());
    ListenerSpec spec = listenerSpecFrom(message.getRoot<rpc::KeptListener>(), source);
    spec.name = name.key;
    requireName(spec.name);
    makeListener(name.origin().value(), std::move(spec), kj::mv(source));
  });
  KJ_IF_MAYBE (e, failure) {
    log_.add("listener " + name.key + " cannot be taken over: " + e->getDescription().cStr());
  }
}

kj::Promise<void> Service::adoptRestores() {
  std::set<std::uint64_t> ids;
  for (const auto& [name, fd] : inherited_.fds)
    if (name.kind == Kind::restore) ids.insert(name.id());
  // A shard that nobody could tell us of may live as well.
  bool anyShardAlive = !inherited_.lost.empty();
  for (std::uint32_t i = 0; i < pool_.size(); i++)
    if (ShardHandle* shard = pool_.process(i)) anyShardAlive |= shard->adopted();
  auto recovered = kj::Vector<kj::Promise<void>>();
  for (const std::uint64_t id : ids) {
    const KeptName name = KeptName::restore(id, Part::segment);
    RestoreFds fds{inherited_.take(name.with(Part::uffd)), coordinator::take(inherited_, name),
                   inherited_.take(name.with(Part::conn)), inherited_.take(name.with(Part::target)),
                   inherited_.take(name.with(Part::touches))};
    const kj::AutoCloseFd names = inherited_.take(name.with(Part::names));
    kj::AutoCloseFd segment = inherited_.take(name);
    const bool kept = segment.get() >= 0 || inherited_.lost.count(name) != 0;
    if (!kept) {
      // Died before it was durable; the connection is there still and the handshake begins again.
      Restore::drop(link_, id, process::MOST_LAYERS);
      continue;
    }
    if (fds.uffd.get() < 0) {
      abandon(id, kj::mv(fds));
      continue;
    }
    KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] {
                   if (names.get() >= 0) fds.layers = layersFrom(names.get());
                 }))
      spdlog::error("restore {}: {}", id, e->getDescription().cStr());
    // With fewer layers it would be another snapshot.
    if (segment.get() < 0 || fds.source.size() != std::max<std::size_t>(fds.layers.size(), 1)) {
      loseRestore(id, "the supervisor had no room for its file descriptors", kj::mv(fds));
      continue;
    }
    const int uffd = fds.uffd.get();
    // Without room for these fds a sound restore would be taken for a damaged one: rather throw now.
    {
      const kj::AutoCloseFd room[] = {process::duplicate(uffd), process::duplicate(uffd),
                                      process::duplicate(uffd)};
    }
    const RestoreFds spare{process::duplicate(uffd), SourceFiles(), kj::AutoCloseFd(),
                           fds.target.get() >= 0 ? process::duplicate(fds.target.get()) : kj::AutoCloseFd()};
    auto failure = kj::runCatchingExceptions([&] {
      auto restore = Restore::adopt(context_, kj::mv(fds), segment.get(), anyShardAlive);
      const auto adopted = keep(kj::mv(restore));
      // A copy: of what has a name, attach() keeps a reference.
      recovered.add(adopted->recover().attach(std::shared_ptr(adopted)));
    });
    KJ_IF_MAYBE (e, failure) {
      loseRestore(id, e->getDescription().cStr(), kj::mv(const_cast<RestoreFds&>(spare)));
    }
  }
  return kj::joinPromises(recovered.releaseAsArray());
}

// The restore lacks fds to be served with. Shards may hold them, so nothing is taken from the shards: were
// the last uffd closed, the target would read zeros.
void Service::abandon(std::uint64_t id, RestoreFds fds) {
  shm::count(counters_->restoresFailed);
  const bool killed = fds.target.get() >= 0 && process::sendSignal(fds.target.get(), SIGKILL);
  log_.add("restore " + std::to_string(id) +
           " cannot be taken over: there was no room for its file descriptors; its target " +
           (killed ? "is killed" : "waits for its pages for ever: kill it"));
  lost_[id] = kj::heap<Lost>(Lost{kj::mv(fds), kj::Own<Undertaker>(), nullptr});
  tasks_.add(watchLost(id));
}

// Holds the lost restore until its target has gone.
kj::Promise<void> Service::watchLost(std::uint64_t id) {
  return io_.provider->getTimer()
      .afterDelay(LOOK_EVERY)
      .then([this, id] {
        const RestoreFds& fds = lost_.at(id)->fds;
        if (fds.uffd.get() >= 0) return lookWhetherThere(fds.uffd.get());
        const bool ended = fds.target.get() >= 0 && process::hasEnded(fds.target.get());
        return kj::Promise<Presence>(ended ? Presence::gone : Presence::there);
      })
      .catch_([](kj::Exception&&) { return Presence::unknown; })  // no thread can be had just now
      .then(
          [this, id](Presence memory) { return memory == Presence::gone ? forgetLost(id) : watchLost(id); });
}

kj::Promise<void> Service::forgetLost(std::uint64_t id) {
  spdlog::info("restore {}, which could not be taken over: its target has gone", id);
  lost_.erase(id);
  Restore::drop(link_, id, process::MOST_LAYERS);
  for (std::uint32_t i = 0; i < pool_.size(); i++)
    if (ShardHandle* shard = pool_.up(i)) shard->detach(id).detach([](kj::Exception&&) {});
  return kj::READY_NOW;
}

// The supervisor had no room for it: perhaps it has in a while.
void Service::storeAgain(const KeptName& name) {
  spdlog::error("{} is not kept yet: too many fds are open in the supervisor", name.text());
  if (std::exchange(storingAgain_, true)) return;
  tasks_.add(io_.provider->getTimer().afterDelay(STORE_RETRY).then([this] {
    storingAgain_ = false;
    for (const auto& [id, restore] : restores_)
      if (!restore->over()) restore->store();
    for (std::uint32_t i = 0; i < pool_.size(); i++)
      if (ShardHandle* shard = pool_.process(i)) shard->keep(link_);
  }));
}

void Service::loseRestore(std::uint64_t id, const std::string& why, RestoreFds fds) {
  log_.add("restore " + std::to_string(id) + " cannot be taken over: " + why +
           "; its target gets SIGBUS on every page it still misses");
  shm::count(counters_->restoresFailed);
  auto lost = kj::heap<Lost>(Lost{kj::mv(fds), kj::Own<Undertaker>(), nullptr});
  // A predecessor's shards may be inside a section of it, and there is no lock to tell: before an event is
  // read, and its caller goes on, they have to be gone.
  lost->running =
      pool_.endAll("restore " + std::to_string(id) + ", which it may be at work on, cannot be taken over")
          .then([this, id, &lost = *lost] {
            lost.undertaker =
                kj::heap<Undertaker>(io_, lost.fds.uffd.get(), lost.fds.target.get(), std::to_string(id));
            return lost.undertaker->run();
          })
          .eagerlyEvaluate([](kj::Exception&& e) { spdlog::error("{}", e.getDescription().cStr()); });
  lost_[id] = kj::mv(lost);
  tasks_.add(watchLost(id));
}

void Service::adoptConnections() {
  adopted_ = true;
  for (const KeptName& name : inherited_.names(Kind::listener, Part::conn))
    connectionAccepted(name, inherited_.take(name));
}

}  // namespace faultline::coordinator
