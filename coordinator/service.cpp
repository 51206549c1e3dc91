#include "coordinator/service.h"

#include <capnp/serialize.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/call_inputs.h"
#include "coordinator/coordinator_server.h"
#include "coordinator/hooks_server.h"
#include "process/clock.h"
#include "rpc/fd.h"
#include "rpc/kept.capnp.h"
#include "rpc/refusal.h"
#include "shmtracker/error.h"

namespace faultline::coordinator {

namespace {

// For Promise::attach(), which keeps no more than a reference of what has a name.
std::shared_ptr<Restore> kept(const std::shared_ptr<Restore>& restore) {
  return restore;
}

// Tells sockets apart, whatever number they have here.
ino_t inodeOf(int fd) {
  struct stat status {};
  return fd >= 0 && fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// Null where no latency is asked for, or none can be had: a successor serves more slowly rather than not at
// all. The command that starts the service has been told (cli/serve.cpp).
kj::Own<CpuLatency> latencyOf(const Options& options, kj::AsyncIoContext& io) {
  kj::Own<CpuLatency> latency;
  if (!options.cpuLatencyUs.has_value()) return latency;
  KJ_IF_MAYBE (error, kj::runCatchingExceptions([&] {
                 latency = kj::heap<CpuLatency>(io.provider->getTimer(), *options.cpuLatencyUs);
               }))
    spdlog::warn("CPUs wake as the machine is set up: {}", error->getDescription().cStr());
  return latency;
}

}  // namespace

Service::Service(kj::AsyncIoContext& io, SupervisorLink& link, Inheritance inherited, Options options)
    : io_(io),
      link_(link),
      inherited_(kj::mv(inherited)),
      election_(inherited_.take("election")),
      options_(fitting(std::move(options), inherited_)),
      log_(link, inherited_.events),
      counters_(inherited_.take("counters")),
      pool_(io, link, log_, failpoints_, options_, *counters_, *this),
      upgrade_(io, link, log_, pool_, options_, inherited_.upgradeGivenUp),
      latency_(latencyOf(options_, io)),
      context_{io, link, log_, failpoints_, options_, pool_, *counters_, latency_.get(), turns_},
      tasks_(*this) {}

Service::~Service() noexcept(false) = default;

kj::Promise<void> Service::run() {
  if (election_.fresh() >= 0) link_.store("election", election_.fresh());
  if (counters_.fresh() >= 0)
    link_.store("counters", counters_.fresh());
  else
    shm::count(counters_->takeovers);
  if (!inherited_.death.empty())
    log_.add("coordinator " + inherited_.death + "; its successor " + std::to_string(getpid()) +
             " takes over");
  auto paf = kj::newPromiseAndFulfiller<void>();
  ended_ = kj::mv(paf.fulfiller);
  kj::Promise<void> shards = nullptr, restores = nullptr;
  KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] {
                 adoptFailpoints();
                 // Shards first: what they have attached, and whether any of them lives, decides how a
                 // restore is taken over.
                 shards = pool_.begin(inherited_);
                 adoptListeners();
                 restores = adoptRestores();
               }))
    giveUp(*e);
  tasks_.add(link_
                 .receive({.accepted = [this](const std::string& name,
                                              kj::AutoCloseFd fd) { connectionAccepted(name, kj::mv(fd)); },
                           .lost = [this](const std::string& name) { storeAgain(name); }})
                 .then([this](SupervisorLink::End why) {
                   if (why == SupervisorLink::End::leave)
                     spdlog::info("leaving everything to the next coordinator");
                   else
                     spdlog::warn("the supervisor has gone, so does this coordinator");
                   _exit(0);  // between two batches, so nothing is half done
                 }));
  tasks_.add(restores.then([this, shards = kj::mv(shards)]() mutable { return kj::mv(shards); })
                 .then([this] {
                   adoptConnections();
                   rpc::Coordinator::Client server = makeCoordinatorServer(*this);
                   auto acceptor = kj::heap<rpc::Acceptor>(kj::mv(server));
                   auto listening = acceptor->listen(*io_.lowLevelProvider, inherited_.take("control"));
                   tasks_.add(listening.attach(kj::mv(acceptor)));
                   link_.ready();
                   if (inherited_.deathNoticed != 0) {
                     takeoverNs_ = process::nowNs() - inherited_.deathNoticed;
                     counters_->coordinatorRecovery.record(takeoverNs_);
                     const double ms = static_cast<double>(takeoverNs_) / 1e6;
                     char text[96];
                     snprintf(text, sizeof text, "coordinator %d serves %zu restores again after %.1f ms",
                              getpid(), restores_.size(), ms);
                     log_.add(text);
                   }
                   tasks_.add(upgrade_.replaceShards());
                 })
                 .catch_([this](kj::Exception&& e) { giveUp(e); }));
  tasks_.add(pingSupervisor());
  return kj::mv(paf.promise);
}

// Not by way of destructors: they open the gates of restores whose journals are not replayed yet.
void Service::giveUp(const kj::Exception& why) {
  spdlog::critical("what is kept cannot be taken over: {}", why.getDescription().cStr());
  _exit(1);
}

kj::Promise<void> Service::pingSupervisor() {
  link_.alive();
  const auto quarter = static_cast<std::uint64_t>(options_.watchdog.count()) / 4 * kj::MILLISECONDS;
  return io_.provider->getTimer().afterDelay(quarter).then([this] { return pingSupervisor(); });
}

// --- targets ---

void Service::connectionAccepted(const std::string& name, kj::AutoCloseFd fd) {
  // Before the takeover is complete nobody can tell which listener, or which restore, it belongs to.
  if (!adopted_) {
    inherited_.fds[name] = kj::mv(fd);
    return;
  }
  if (fd.get() < 0) {
    log_.add(name + ": a target is turned away: there is no room for its connection's file descriptor");
    return link_.drop(name);
  }
  const std::size_t end = name.rfind(".conn.");
  const std::string listener = end == std::string::npos ? "" : name.substr(9, end - 9);
  const auto found = listeners_.find(listener);
  // Served already: the predecessor died between making the restore and saying so.
  bool served = found == listeners_.end();
  for (const auto& [id, restore] : restores_)
    served |= inodeOf(restore->fds().conn.get()) == inodeOf(fd.get());
  if (served) return link_.drop(name);
  KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] { found->second->accepted(name, kj::mv(fd)); })) {
    log_.add(name + ": a target is turned away: " + e->getDescription().cStr());
    link_.drop(name);
  }
}

// --- restores ---

std::string Service::freeName(const std::string& wanted) const {
  const std::string base = wanted.empty() ? "restore" : wanted.substr(0, 50);
  for (unsigned i = 1;; i++) {
    std::string name = i == 1 ? base : base + "-" + std::to_string(i);
    bool taken = false;
    for (const auto& [id, restore] : restores_) taken |= restore->name() == name;
    if (!taken) return name;
  }
}

std::string Service::begin(RestoreSpec spec, RestoreFds fds) {
  if (restores_.size() >= options_.maxRestores)
    rpc::refuse(rpc::Reason::LIMIT_REACHED,
                std::to_string(restores_.size()) +
                    " restores are being served already: wait for one to end, or raise --max-restores");
  spec.name = freeName(spec.name);
  auto restore = Restore::begin(context_, spec, kj::mv(fds));
  auto& begun = *restore;
  spdlog::info("restore {} ({}): {} pages in {} regions from {}, target pid {}", begun.name(), begun.id(),
               begun.segment().pages().pageCount(), spec.regions.size(), spec.sourceName, spec.targetPid);
  shm::count(counters_->restoresBegun);
  keep(kj::mv(restore));
  begun.start();
  return begun.name();
}

std::shared_ptr<Restore> Service::keep(kj::Own<Restore> restore) {
  const std::uint64_t id = restore->id();
  Restore* raw = restore.get();
  std::shared_ptr<Restore> shared(raw, [own = kj::mv(restore)](Restore*) mutable { own = nullptr; });
  restores_[id] = shared;
  watch(shared);
  return shared;
}

void Service::watch(const std::shared_ptr<Restore>& restore) {
  tasks_.add(restore->whenOver().then([this, id = restore->id()](const RestoreEnd&) {
    // Not from within one of its own promises.
    tasks_.add(kj::evalLater([this, id] {
      restores_.erase(id);
      suspects_.forget(id);
    }));
  }));
}

std::shared_ptr<Restore> Service::find(const std::string& name) {
  for (const auto& [id, restore] : restores_)
    if (restore->name() == name) return restore;
  rpc::refuse(rpc::Reason::NOT_FOUND, "no restore is called " + name + "; `faultline status` lists them");
}

std::shared_ptr<Listener> Service::listen(ListenerSpec spec, kj::AutoCloseFd socket, kj::AutoCloseFd source) {
  requireName(spec.name);
  if (listeners_.count(spec.name) != 0)
    rpc::refuse(rpc::Reason::NAME_TAKEN,
                "a listener called " + spec.name + " is being served: choose another name");
  int memory;
  KJ_SYSCALL(memory = memfd_create("faultline-listener", MFD_CLOEXEC));
  kj::AutoCloseFd specFd(memory);
  capnp::MallocMessageBuilder message;
  fill(message.initRoot<rpc::KeptListener>(), spec);
  capnp::writeMessageToFd(specFd.get(), message);
  const std::string name = spec.name;
  link_.store(listenerName(name, "source"), source.get());
  link_.store(listenerName(name, "spec"), specFd.get());
  auto listener = std::make_shared<Listener>(
      context_, std::move(spec), kj::mv(source),
      [this](RestoreSpec wanted, RestoreFds fds) { return begin(std::move(wanted), kj::mv(fds)); });
  listeners_[name] = listener;
  link_.store(listenerName(name, "listen"), socket.get());
  return listener;
}

void Service::close(const Listener& listener) {
  const auto found = listeners_.find(listener.spec().name);
  if (found != listeners_.end() && found->second.get() == &listener) closeListener(listener.spec().name);
}

void Service::closeListener(const std::string& name) {
  const auto found = listeners_.find(name);
  if (found == listeners_.end()) rpc::refuse(rpc::Reason::NOT_FOUND, "no listener is called " + name);
  for (const char* part : {"listen", "spec", "source"}) link_.drop(listenerName(name, part));
  // Its connections are kept, and open, until the supervisor is told of each.
  const std::shared_ptr<Listener> listener = std::move(found->second);
  listeners_.erase(found);
  tasks_.add(listener->close().attach(std::shared_ptr(listener)));
}

void Service::shutdown(bool force) {
  for (const auto& [id, restore] : restores_)
    if (!force && restore->segment().pages().counts().missing > 0)
      rpc::refuse(rpc::Reason::PAGES_MISSING,
                  "restore " + restore->name() +
                      " is being served and would lose pages: wait for it, detach it, or use force");
  link_.shutdown();
  auto over = kj::Vector<kj::Promise<void>>();
  for (const auto& [id, restore] : std::map(restores_)) {
    over.add(restore->whenOver().ignoreResult().attach(kept(restore)));
    const bool lost = restore->segment().pages().counts().missing > 0;
    restore->end(lost ? rpc::EndReason::LOST_AT_SHUTDOWN : rpc::EndReason::SHUT_DOWN,
                 "the service is shut down", Restore::Release::yes);
  }
  // Once the answer to this call is on its way.
  tasks_.add(kj::joinPromises(over.releaseAsArray())
                 .then([this] { return io_.provider->getTimer().afterDelay(1 * kj::MILLISECONDS); })
                 .then([this] { ended_->fulfill(); }));
}

kj::Promise<void> Service::reshard(const std::string& name, std::uint32_t shards) {
  auto restore = find(name);
  requireShards(shards);
  return pool_.grow(shards)
      .then([restore, shards] { return restore->reshard(shards).attach(kept(restore)); })
      .then([this, name, shards] {
        log_.add("restore " + name + " is served by " + std::to_string(shards) + " shards now");
      });
}

// --- shards ---

void Service::shardDied(std::uint32_t index, Death death) {
  for (const auto& [id, restore] : restores_) {
    suspects_.shardDied(restore->segment(), index, death);
    restore->shardDied(index);
  }
}

kj::Promise<void> Service::shardLeaves(ShardHandle& shard) {
  auto leaving = kj::Vector<kj::Promise<void>>();
  for (const auto& [id, restore] : restores_) leaving.add(restore->shardLeaves(shard));
  return kj::joinPromises(leaving.releaseAsArray());
}

kj::Promise<void> Service::shardUp(ShardHandle& shard, std::vector<std::uint64_t> has) {
  auto work = kj::Vector<kj::Promise<void>>();
  for (const std::uint64_t id : has) {
    const auto known = restores_.find(id);
    const bool wanted = known != restores_.end() && !known->second->over() && !known->second->failed() &&
                        known->second->ownedBy(shard.index());  // false after a reshard by a predecessor
    if (!wanted && lost_.count(id) == 0) work.add(shard.detach(id));
  }
  for (const auto& [id, restore] : restores_) {
    const std::uint32_t index = shard.index();
    const auto hopeless = suspects_.takeHopeless(restore->segment(), index);
    work.add(restore->shardUp(shard, hopeless).attach(kept(restore)));
    if (hopeless.empty()) continue;
    log_.add("restore " + restore->name() + ": page " + std::to_string(hopeless.front()) +
             " is poisoned: shard " + std::to_string(index) + " died at it " +
             std::to_string(PageSuspects::LIMIT) + " times");
  }
  return kj::joinPromises(work.releaseAsArray());
}

std::shared_ptr<Restore> Service::servedBy(std::uint64_t id, std::uint32_t index) {
  const auto found = restores_.find(id);
  const ShardHandle* shard = pool_.process(index);
  if (found == restores_.end() || shard == nullptr || !shard->serves(id))
    rpc::refuse(rpc::Reason::FORBIDDEN,
                "shard " + std::to_string(index) + " does not serve restore " + std::to_string(id));
  return found->second;
}

rpc::ShardEvents::Client Service::eventsFor(std::uint32_t index) {
  return makeShardEvents(*this, index);
}

void Service::taskFailed(kj::Exception&& exception) {
  spdlog::error("{}", exception.getDescription().cStr());
}

}  // namespace faultline::coordinator
