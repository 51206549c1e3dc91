#include "coordinator/service.h"

#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <malloc.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "coordinator/call_inputs.h"
#include "coordinator/coordinator_server.h"
#include "coordinator/hooks_server.h"
#include "process/clock.h"
#include "process/duplicate.h"
#include "process/log.h"
#include "process/log_about.h"
#include "rpc/fd.h"
#include "rpc/refusal.h"
#include "shmtracker/error.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

using process::KeptName;

namespace {

// From an end of a restore on: ends that come together cost one walk through the heap.
constexpr kj::Duration GIVE_BACK_AFTER = 1 * kj::SECONDS;

// The fds that a restore needs at once as it begins: its own, and three on their way to each shard. A restore that ran
// out of them later would fail.
void requireRoomForFds(std::uint32_t shards) {
  constexpr std::uint32_t OWN = 8, A_SHARD = 3;
  std::vector<kj::AutoCloseFd> room;
  const auto failure = kj::runCatchingExceptions([&] {
    while (room.size() < OWN + A_SHARD * shards) room.push_back(process::duplicate(STDERR_FILENO));
  });
  if (failure != nullptr)
    rpc::refuse(
        rpc::Reason::LIMIT_REACHED,
        "too many files are open for another restore: wait for one to end, or raise the limit on open files "
        "(LimitNOFILE=, ulimit -n)");
}

// Ends this process as if it had been killed: the supervisor starts another, which begins again. Not by way of
// destructors: they open the gates of restores whose journals are not replayed yet.
[[noreturn]] void giveUp(const kj::Exception& why) {
  spdlog::critical("what is kept cannot be taken over: {}", why.getDescription().cStr());
  process::flushLog();
  _exit(1);
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
      election_(inherited_.take(KeptName::service(KeptName::Part::election))),
      options_(fitting(std::move(options), inherited_)),
      counters_(inherited_.take(KeptName::service(KeptName::Part::counters))),
      log_(link, inherited_.events, counters_.lastEvent()),
      ended_(inherited_.take(KeptName::service(KeptName::Part::ended))),
      pool_(io, link, log_, failpoints_, options_, *counters_, *this),
      upgrade_(io, link, log_, pool_, options_, inherited_.upgradeGivenUp),
      latency_(latencyOf(options_, io)),
      refused_(io, options_, [this](int uffd) { return servedAs(uffd).has_value(); }),
      populations_(io.provider->getTimer(), pool_, options_),
      fetcher_(io, link, log_, options_),
      context_{io,         link,           log_,   ended_,   failpoints_,  options_, pool_,
               *counters_, latency_.get(), turns_, refused_, populations_, fetcher_},
      lost_(context_),
      storing_(io.provider->getTimer(), link, restores_, pool_),
      listeners_(context_, restores_,
                 {[this](RestoreSpec spec, int file) { return prepare(std::move(spec), file); },
                  [this](PreparedRestore prepared, RestoreFds fds) {
                    return begin(std::move(prepared), kj::mv(fds));
                  }}),
      takeover_(context_, inherited_, lost_, listeners_,
                [this](const std::shared_ptr<Restore>& restore) { keep(restore); }),
      end_(context_, restores_, lost_, listeners_),
      tasks_(*this) {}

Service::~Service() noexcept(false) = default;

kj::Promise<void> Service::run() {
  if (election_.fresh() >= 0) link_.store(KeptName::service(KeptName::Part::election), election_.fresh());
  if (counters_.fresh() >= 0)
    link_.store(KeptName::service(KeptName::Part::counters), counters_.fresh());
  else
    shm::count(counters_->takeovers);
  if (ended_.fresh() >= 0) link_.store(KeptName::service(KeptName::Part::ended), ended_.fresh());
  for (const std::string& name : inherited_.foreign)
    log_.add("\"" + name + "\" is kept and is no name of this build's: it is left as it is");
  takeover_.begin();
  if (inherited_.end.has_value()) end_.ask(*inherited_.end);
  kj::Promise<void> shards = nullptr, restores = nullptr;
  KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] {
                 takeover_.adoptFailpoints();
                 fetcher_.begin(inherited_);
                 // Shards first: what they have attached, and whether any of them lives, decides how a
                 // restore is taken over.
                 shards = pool_.begin(inherited_);
                 listeners_.adopt(inherited_);
                 restores = takeover_.adoptRestores();
                 // Targets that have just come wait for no restore that is being recovered.
                 listeners_.adoptConnections(inherited_);
               }))
    giveUp(*e);
  tasks_.add(link_
                 .receive({.accepted = [this](const KeptName& name,
                                              kj::AutoCloseFd fd) { listeners_.accepted(name, kj::mv(fd)); },
                           .lost = [this](const KeptName& name) { storing_.lost(name); },
                           .end = [this](bool now) { end_.ask(now); }})
                 .then([this](SupervisorLink::End why) { leave(why); }));
  tasks_.add(restores.then([this, shards = kj::mv(shards)]() mutable { return kj::mv(shards); })
                 .then([this] {
                   adopted_ = true;
                   for (const auto& [id, restore] : restores_) {
                     restore->leaveFormerOwners();
                     endFormerOwners(restore);
                   }
                   endIdleShards();
                   rpc::Coordinator::Client server = makeCoordinatorServer(*this);
                   auto acceptor = kj::heap<rpc::Acceptor>(kj::mv(server));
                   auto listening = acceptor->listen(
                       *io_.lowLevelProvider, inherited_.take(KeptName::service(KeptName::Part::control)));
                   tasks_.add(listening.attach(kj::mv(acceptor)));
                   sayReady();
                   end_.adopted();
                   takeover_.finish(restores_.size());
                   tasks_.add(upgrade_.replaceShards());
                 })
                 .catch_([this](kj::Exception&& e) { giveUp(e); }));
  tasks_.add(pingSupervisor());
  return end_.whenOver();
}

// Faults can be served once one shard can. Which are not up yet is in the status line.
void Service::sayReady() {
  if (!adopted_ || ready_) return;
  for (std::uint32_t i = 0; i < pool_.size(); i++) ready_ |= pool_.up(i) != nullptr;
  if (ready_) link_.ready();
  link_.status(statusLine());
}

void Service::leave(SupervisorLink::End why) {
  if (why == SupervisorLink::End::leave) {
    spdlog::info("leaving everything to the next coordinator");
  } else if (!inherited_.managed) {
    // A successor will not come: targets would wait for their pages, or read zeros.
    spdlog::error("the supervisor has gone, and no service manager is there: the service ends");
    return end_.ask(false);
  } else {
    spdlog::warn("the supervisor has gone, so does this coordinator");
  }
  process::flushLog();
  _exit(0);  // between two batches, so nothing is half done
}

// A line for people; the service manager shows it.
std::string Service::statusLine() const {
  if (end_.begun()) return end_.statusLine();
  std::uint32_t up = 0, failed = 0, populating = 0;
  for (std::uint32_t i = 0; i < pool_.size(); i++) up += pool_.isUp(i) ? 1 : 0;
  for (const auto& [id, restore] : restores_) {
    failed += restore->failed() ? 1 : 0;
    populating += restore->populating() ? 1 : 0;
  }
  auto also = [](std::uint64_t count, const char* what) {
    return count == 0 ? std::string() : ", " + std::to_string(count) + " " + what;
  };
  const std::string shards = std::to_string(up) + " of " + std::to_string(pool_.size()) + " shards";
  return (up == 0 ? "no shard is up: no fault is served, " : "serving ") + std::to_string(restores_.size()) +
         " restores, " + shards + also(populating, "populating") + also(failed, "failed") +
         also(lost_.size(), "lost");
}

kj::Promise<void> Service::pingSupervisor() {
  link_.alive();
  link_.status(statusLine());
  endIdleShards();
  const auto quarter = static_cast<std::uint64_t>(options_.watchdog.count()) / 4 * kj::MILLISECONDS;
  return io_.provider->getTimer().afterDelay(quarter).then([this] { return pingSupervisor(); });
}

// --- restores ---

std::string Service::freeName(const std::string& wanted) const {
  const std::string base = wanted.empty() ? "restore" : wanted.substr(0, 50);
  std::set<std::string> taken = preparing_;
  for (const auto& [id, restore] : restores_) taken.insert(restore->name());
  std::string name = base;
  for (unsigned i = 2; taken.count(name) != 0; i++) name = base + "-" + std::to_string(i);
  return name;
}

std::optional<std::string> Service::servedAs(int uffd) const {
  for (const auto& [id, restore] : restores_)
    if (!restore->over() && uffd::sameUserfaultfd(uffd, restore->fds().uffd.get())) return restore->name();
  if (const auto id = lost_.withUserfaultfd(uffd)) return std::to_string(*id);
  return std::nullopt;
}

// Two readers of one userfaultfd would each get a part of its events, and miss the removals of the other.
void Service::requireNotServed(int uffd) const {
  if (const auto as = servedAs(uffd))
    rpc::refuse(rpc::Reason::BAD_TARGET,
                "this userfaultfd is served already, as restore " + *as +
                    ": hand each over once, and connect anew only after that restore "
                    "has ended");
  if (refused_.has(uffd))
    rpc::refuse(rpc::Reason::BAD_TARGET,
                "a target with this userfaultfd was refused, and gets errors: begin with another");
}

void Service::requireRoom() const {
  if (end_.begun()) rpc::refuse(rpc::Reason::ENDING, "the service is ending: no new target is served");
  if (link_.blocked())
    rpc::refuse(rpc::Reason::NOT_READY,
                "what a target needs cannot be kept: the supervisor takes nothing; is it stopped (SIGSTOP)?");
  if (restores_.size() + preparing_.size() >= options_.maxRestores)
    rpc::refuse(rpc::Reason::LIMIT_REACHED,
                std::to_string(restores_.size() + preparing_.size()) +
                    " restores are being served already: wait for one to end, or raise --max-restores");
  requireRoomForFds(pool_.size());
}

kj::Promise<PreparedRestore> Service::prepare(RestoreSpec spec, int source) {
  requireRoom();
  spec.name = freeName(spec.name);
  auto name = std::make_unique<ReservedName>(preparing_, spec.name);
  auto made = spec.createSegment(options_, source);
  return made.then([spec = std::move(spec), name = std::move(name)](shm::Segment segment) mutable {
    return PreparedRestore{std::move(spec), std::move(segment), std::move(name)};
  });
}

std::string Service::begin(PreparedRestore prepared, RestoreFds fds) {
  prepared.name = nullptr;
  requireRoom();
  requireNotServed(fds.uffd.get());
  const RestoreSpec& spec = prepared.spec;
  const auto restore = Restore::begin(context_, spec, std::move(prepared.segment), kj::mv(fds));
  Restore& begun = *restore;
  const process::LogAbout about({.restore = begun.name(), .messageId = process::message::RESTORE_BEGUN});
  spdlog::info("restore {} ({}): {} pages in {} regions from {}, target pid {}", begun.name(), begun.id(),
               begun.segment().pages().pageCount(), spec.regions.size(), begun.segment().sourceName(),
               spec.targetPid);
  if ((spec.uffdFeatures & UFFD_FEATURE_EVENT_REMOVE) == 0)
    spdlog::warn(
        "restore {}: its userfaultfd does not tell removals (UFFD_FEATURE_EVENT_REMOVE): a page that the "
        "target gives up before it came comes back with the snapshot's bytes",
        begun.name());
  shm::count(counters_->restoresBegun);
  keep(restore);
  begun.start();
  return begun.name();
}

void Service::keep(const std::shared_ptr<Restore>& restore) {
  restores_[restore->id()] = restore;
  watch(restore);
}

void Service::watch(const std::shared_ptr<Restore>& restore) {
  tasks_.add(restore->whenOver().then([this, id = restore->id()](const RestoreEnd&) {
    // Not from within one of its own promises.
    tasks_.add(kj::evalLater([this, id] {
      restores_.erase(id);
      suspects_.forget(id);
      giveMemoryBack();
      endIdleShards();
    }));
  }));
}

// The allocator keeps what was freed between other things, which after many restores is most of what we have.
void Service::giveMemoryBack() {
  if (std::exchange(givingBack_, true)) return;
  tasks_.add(io_.provider->getTimer().afterDelay(GIVE_BACK_AFTER).then([this] {
    givingBack_ = false;
    malloc_trim(0);
  }));
}

std::shared_ptr<Restore> Service::find(const std::string& name) {
  for (const auto& [id, restore] : restores_)
    if (restore->name() == name) return restore;
  rpc::refuse(rpc::Reason::NOT_FOUND,
              "no restore is called " + name.substr(0, 64) + "; `faultline status` lists them");
}

kj::Promise<void> Service::reshard(const std::string& name, std::uint32_t shards) {
  auto restore = find(name);
  requireShards(shards);
  reshards_++;
  return pool_.grow(shards)
      .then([restore, shards] { return restore->reshard(shards).attach(kj::cp(restore)); })
      .then([this, name, shards, restore] {
        log_.planned("restore " + name + " is served by " + std::to_string(shards) + " shards now", name);
        endFormerOwners(restore);
      })
      .attach(kj::defer([this] { reshards_--; }));
}

void Service::endFormerOwners(const std::shared_ptr<Restore>& restore) {
  tasks_.add(restore->whenFormerOwnersHaveLeft().attach(kj::cp(restore)).then([this] { endIdleShards(); }));
}

// Shards beyond those that the service was started with last as long as a restore needs them.
void Service::endIdleShards() {
  // A restore that was lost may have its userfaultfd in a shard alone.
  if (!adopted_ || reshards_ > 0 || lost_.size() > 0) return;
  std::uint32_t needed = options_.shards;
  for (const auto& [id, restore] : restores_) needed = std::max(needed, restore->shardsNeeded());
  pool_.shrink(needed);
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
    if (!wanted && !lost_.has(id)) work.add(shard.detach(id));
  }
  for (const auto& [id, restore] : restores_) {
    const std::uint32_t index = shard.index();
    const auto hopeless = suspects_.takeHopeless(restore->segment(), index);
    // Eagerly: joined, the last step of each would wait until all are ready.
    work.add(restore->shardUp(shard, hopeless).attach(kj::cp(restore)).eagerlyEvaluate(nullptr));
    if (hopeless.empty()) continue;
    log_.lost("restore " + restore->name() + ": page " + std::to_string(hopeless.front()) +
                  " is poisoned: shard " + std::to_string(index) + " died at it " +
                  std::to_string(PageSuspects::LIMIT) + " times",
              restore->name());
  }
  // Also before what is attached now is answered: the shard serves.
  sayReady();
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
