// How the service takes over what a predecessor left, and what it does where something of that is missing.
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "coordinator/armed_name.h"
#include "coordinator/service.h"
#include "process/duplicate.h"
#include "rpc/refusal.h"

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

kj::Promise<void> Service::adoptRestores() {
  std::set<std::uint64_t> ids;
  for (const auto& [name, fd] : inherited_.fds)
    if (name.kind == Kind::restore) ids.insert(name.id());
  // A shard whose fd was lost may live as well.
  bool anyShardAlive = !inherited_.lost.empty();
  for (std::uint32_t i = 0; i < pool_.size(); i++)
    if (ShardHandle* shard = pool_.process(i)) anyShardAlive |= shard->adopted();
  auto recovered = kj::Vector<kj::Promise<void>>();
  for (const std::uint64_t id : ids) {
    InheritedRestore left = RestoreFds::take(fetcher_, inherited_, id);
    RestoreFds& fds = left.fds;
    const int segment = left.segment.get();
    if (!left.durable || ended_.givenBack(id)) {
      // Died before it was durable: the connection is there still and the handshake begins again. Or after its end was
      // noted.
      RestoreFds::drop(link_, id, process::MOST_LAYERS);
      continue;
    }
    if (fds.uffd.get() < 0) {
      lost_.abandon(id, kj::mv(fds));
      continue;
    }
    const bool kill = !fds.source.empty() && listeners_.killsOnLost(fds.source.front().get());
    // With fewer layers it would be another snapshot, and without its cache a packed one would be taken for the memory.
    if (segment < 0 || !areOf(fds.source, fds.layers)) {
      lost_.lose(id, rpc::EndReason::SERVER_FAILED, "the supervisor had no room for its file descriptors",
                 kj::mv(fds), segment, kill);
      continue;
    }
    const int uffd = fds.uffd.get();
    // Without room for these fds a sound restore would be taken for a damaged one: rather throw now.
    {
      const kj::AutoCloseFd room[] = {process::duplicate(uffd), process::duplicate(uffd),
                                      process::duplicate(uffd)};
    }
    RestoreFds spare{process::duplicate(uffd), SourceFiles(), kj::AutoCloseFd(),
                     fds.target.get() >= 0 ? process::duplicate(fds.target.get()) : kj::AutoCloseFd()};
    auto failure = kj::runCatchingExceptions([&] {
      const auto adopted = Restore::adopt(context_, kj::mv(fds), segment, anyShardAlive);
      keep(adopted);
      // Eagerly: joined, the last step of each would wait until all are ready.
      recovered.add(adopted->recover().attach(kj::cp(adopted)).eagerlyEvaluate(nullptr));
    });
    KJ_IF_MAYBE (e, failure) {
      lost_.lose(id, rpc::EndReason::SEGMENT_DAMAGED, rpc::refusalOf(*e).message, kj::mv(spare), segment,
                 kill);
    }
  }
  return kj::joinPromises(recovered.releaseAsArray());
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

}  // namespace faultline::coordinator
