#include "coordinator/shard_attachments.h"

#include <kj/debug.h>

#include <utility>

#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {
// With a shard that is to let go of a restore which ends.
constexpr kj::Duration LEAVE_PATIENCE = 2 * kj::SECONDS;
}  // namespace

ShardAttachments::ShardAttachments(ShardPool& pool, kj::Timer& timer, shm::Segment& segment, int uffd,
                                   const SourceFiles& source, const std::vector<SourceLayer>& layers,
                                   FaultRouter& router, Population& population, Owner& owner)
    : pool_(pool),
      timer_(timer),
      segment_(segment),
      uffd_(uffd),
      source_(source),
      layers_(layers),
      router_(router),
      population_(population),
      owner_(owner) {}

kj::Promise<void> ShardAttachments::begin() {
  auto attaching = kj::Vector<kj::Promise<void>>();
  for (ShardHandle* shard : unattachedOwners())
    // Eagerly: joined, the last step of each would wait until all are ready.
    attaching.add(attach(*shard)
                      .catch_([this](kj::Exception&& e) {
                        // A shard that dies just now comes back through up().
                        if (e.getType() != kj::Exception::Type::DISCONNECTED)
                          owner_.shardRefuses(rpc::refusalOf(e).message);
                      })
                      .eagerlyEvaluate(nullptr));
  return kj::joinPromises(attaching.releaseAsArray());
}

kj::Promise<bool> ShardAttachments::up(ShardHandle& shard, std::vector<shm::PageIndex> hopeless) {
  if (!owner_.wantsShards() || !owns(shard.index())) return false;
  return attach(shard, std::move(hopeless))
      .then([this, &shard] { return attached(shard.index()); },
            [this](kj::Exception&& e) -> bool {
              // A shard that dies just now comes by here again.
              if (e.getType() == kj::Exception::Type::DISCONNECTED) kj::throwFatalException(kj::mv(e));
              owner_.shardRefuses(rpc::refusalOf(e).message);
              return false;
            });
}

kj::Promise<void> ShardAttachments::attach(ShardHandle& shard, std::vector<shm::PageIndex> hopeless) {
  return kj::evalNow([&] { return shard.attach(id(), uffd_, segment_.fd(), source_, layers_); })
      .then([this, &shard, hopeless = std::move(hopeless)]() -> kj::Promise<void> {
        // Before it is handed any fault: what killed its predecessors must not be met again.
        return hopeless.empty() ? kj::Promise<void>(kj::READY_NOW) : poison(shard, hopeless);
      })
      .then([this, &shard, index = shard.index(), pid = shard.pid()] {
        // Its answer may be heard after its death.
        if (!pool_.lives(index, pid))
          kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the shard has died", index, pid));
        if (!owner_.wantsShards()) return;
        // From here on the shard sees each change: what it was attached with is what the restore began with.
        if (auto why = whatChanged(source_, layers_)) return owner_.sourceHasChanged(*why);
        router_.setAttached(index, true);
        population_.shardUp();
        const auto shares = segment_.shares();
        bool all = true;
        for (std::uint32_t i = 0; i < segment_.activeShards(); i++) all &= attached(i) || shares[i] == 0;
        if (all) owner_.allAttached();
      });
}

kj::Promise<void> ShardAttachments::poison(ShardHandle& shard, const std::vector<shm::PageIndex>& pages) {
  auto request = shard.rpc().poisonRequest();
  request.setRestore(id());
  request.setReason("one shard after the other died at it");
  auto list = request.initPages(static_cast<unsigned>(pages.size()));
  for (unsigned i = 0; i < pages.size(); i++) list.set(i, pages[i]);
  return request.send().ignoreResult();
}

kj::Promise<void> ShardAttachments::attachFirst(std::uint32_t shards) {
  auto attaching = kj::Vector<kj::Promise<void>>();
  for (std::uint32_t i = 0; i < shards; i++) {
    if (attached(i)) continue;
    ShardHandle* shard = pool_.up(i);
    if (shard == nullptr)
      rpc::refuse(rpc::Reason::NOT_READY, "shard " + std::to_string(i) + " is not up: try again");
    attaching.add(attach(*shard));
  }
  return kj::joinPromises(attaching.releaseAsArray());
}

std::vector<ShardHandle*> ShardAttachments::unattachedOwners() const {
  std::vector<ShardHandle*> owners;
  const auto shares = segment_.shares();
  for (std::uint32_t i = 0; i < segment_.activeShards(); i++)
    if (ShardHandle* shard = shares[i] == 0 || attached(i) ? nullptr : pool_.up(i)) owners.push_back(shard);
  return owners;
}

void ShardAttachments::died(std::uint32_t index) {
  router_.setAttached(index, false);
  population_.shardGone(index);
}

kj::Promise<void> ShardAttachments::leave(ShardHandle& shard) {
  died(shard.index());
  return shard.letGo(id());
}

kj::Promise<void> ShardAttachments::leaveInTime(ShardHandle& shard, const char* why) {
  auto end = [this, i = shard.index(), pid = shard.pid(), why] {
    if (pool_.lives(i, pid)) pool_.fence(i, "it does not let go of restore " + segment_.name() + why);
  };
  // Moved: then() keeps a reference to a function that is a variable.
  return leave(shard)
      .catch_([end](kj::Exception&&) { end(); })
      .exclusiveJoin(timer_.afterDelay(LEAVE_PATIENCE).then(kj::mv(end)));
}

kj::Promise<void> ShardAttachments::leaveAll() {
  auto leaving = kj::Vector<kj::Promise<void>>();
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++) {
    ShardHandle* shard = pool_.process(i);
    if (shard != nullptr && shard->serves(id())) leaving.add(leaveInTime(*shard, ", which ends"));
  }
  return kj::joinPromises(leaving.releaseAsArray());
}

void ShardAttachments::drop() {
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++)
    if (ShardHandle* shard = pool_.process(i)) leave(*shard).detach([](kj::Exception&&) {});
}

void ShardAttachments::stop() {
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++) router_.setAttached(i, false);
}

}  // namespace faultline::coordinator
