#include "coordinator/takeover.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <new>
#include <set>
#include <utility>

#include "coordinator/armed_name.h"
#include "coordinator/ended_restores.h"
#include "coordinator/event_log.h"
#include "coordinator/service_counters.h"
#include "coordinator/shard_pool.h"
#include "process/clock.h"
#include "process/duplicate.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

using process::KeptName;
using Kind = KeptName::Kind;
using Part = KeptName::Part;

Takeover::Takeover(RestoreContext& context, Inheritance& inherited, LostRestores& lost,
                   const Listeners& listeners, std::function<void(const std::shared_ptr<Restore>&)> keep)
    : context_(context), inherited_(inherited), lost_(lost), listeners_(listeners), keep_(std::move(keep)) {}

void Takeover::begin() {
  if (inherited_.death.empty()) return;
  note("coordinator " + inherited_.death + "; its successor " + std::to_string(getpid()) + " takes over");
}

void Takeover::finish(std::size_t restores) {
  if (inherited_.deathNoticed == 0) return;
  ns_ = process::nowNs() - inherited_.deathNoticed;
  context_.totals.coordinatorRecovery.record(ns_);
  note(fmt::format("coordinator {} serves {} restores again after {:.1f} ms", getpid(), restores,
                   static_cast<double>(ns_) / 1e6));
}

// A predecessor that left as it was told to is no reason to look.
void Takeover::note(const std::string& text) {
  if (inherited_.asked)
    context_.log.planned(text);
  else
    context_.log.add(text);
}

void Takeover::adoptFailpoints() {
  for (const KeptName& name : inherited_.names(Kind::failpoint, Part::resume)) {
    const KeptName reachedName = name.with(Part::reached);
    kj::AutoCloseFd resume = inherited_.take(name), reached = inherited_.take(reachedName);
    context_.link.drop(name);
    context_.link.drop(reachedName);
    auto arm = armOf(name.key);
    if (!arm.has_value() || !context_.options.testHooks) continue;
    arm->reached = kj::mv(reached);
    arm->resume = kj::mv(resume);
    context_.failpoints.arm(kj::mv(*arm));
  }
}

kj::Promise<void> Takeover::adoptRestores() {
  std::set<std::uint64_t> ids;
  for (const auto& [name, fd] : inherited_.fds)
    if (name.kind == Kind::restore) ids.insert(name.id());
  // A shard whose fd was lost may live as well.
  bool anyShardAlive = !inherited_.lost.empty();
  for (std::uint32_t i = 0; i < context_.pool.size(); i++)
    if (ShardHandle* shard = context_.pool.process(i)) anyShardAlive |= shard->adopted();
  auto recovered = kj::Vector<kj::Promise<void>>();
  for (const std::uint64_t id : ids) recovered.add(adopt(id, anyShardAlive));
  return kj::joinPromises(recovered.releaseAsArray());
}

kj::Promise<void> Takeover::adopt(std::uint64_t id, bool anyShardAlive) {
  InheritedRestore left = RestoreFds::take(context_.fetcher, inherited_, id);
  RestoreFds& fds = left.fds;
  const int segment = left.segment.get();
  if (!left.durable || context_.ended.givenBack(id)) {
    // Died before it was durable: the connection is there still and the handshake begins again. Or after its end was
    // noted.
    RestoreFds::drop(context_.link, id, process::MOST_LAYERS);
    return kj::READY_NOW;
  }
  if (fds.uffd.get() < 0) {
    lost_.abandon(id, kj::mv(fds));
    return kj::READY_NOW;
  }
  const bool kill = !fds.source.empty() && listeners_.killsOnLost(fds.source.front().get());
  // With fewer layers it would be another snapshot, and without its cache a packed one would be taken for the memory.
  if (segment < 0 || !areOf(fds.source, fds.layers)) {
    lost_.lose(id, rpc::EndReason::SERVER_FAILED, "the supervisor had no room for its file descriptors",
               kj::mv(fds), segment, kill);
    return kj::READY_NOW;
  }
  const int uffd = fds.uffd.get();
  // Without room for these fds a sound restore would be taken for a damaged one: rather throw now.
  {
    const kj::AutoCloseFd room[] = {process::duplicate(uffd), process::duplicate(uffd),
                                    process::duplicate(uffd)};
  }
  RestoreFds spare{process::duplicate(uffd), SourceFiles(), kj::AutoCloseFd(),
                   fds.target.get() >= 0 ? process::duplicate(fds.target.get()) : kj::AutoCloseFd()};
  kj::Promise<void> recovered = kj::READY_NOW;
  bool noMemory = false;
  auto failure = kj::runCatchingExceptions([&] {
    try {
      const auto adopted = Restore::adopt(context_, kj::mv(fds), segment, anyShardAlive);
      keep_(adopted);
      // Eagerly: joined, the last step of each would wait until all are ready.
      recovered = adopted->recover().attach(kj::cp(adopted)).eagerlyEvaluate(nullptr);
    } catch (const std::bad_alloc&) {
      noMemory = true;
      throw;
    }
  });
  KJ_IF_MAYBE (e, failure) {
    // The next coordinator may have some.
    if (noMemory) kj::throwFatalException(kj::mv(*e));
    lost_.lose(id, rpc::EndReason::SEGMENT_DAMAGED, rpc::refusalOf(*e).message, kj::mv(spare), segment, kill);
  }
  return recovered;
}

}  // namespace faultline::coordinator
