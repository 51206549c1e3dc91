#include "coordinator/restore.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "coordinator/completion.h"
#include "failpoints/mistakes.h"
#include "rpc/fd.h"
#include "shmtracker/error.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

using failpoints::made;
using Stage = Life::Stage;

namespace {

constexpr kj::Duration LOCK_EVERY = 5 * kj::MILLISECONDS;
// include/uapi/linux/userfaultfd.h: the target tracks its writes through the same registration.
constexpr std::uint64_t TRACKS_WRITES = UFFD_FEATURE_PAGEFAULT_FLAG_WP | uffd::FEATURE_WP_ASYNC;

// Polling needs it, and so does a read() that must never wait (man 2 userfaultfd).
void setNonBlocking(int uffd) {
  int flags;
  KJ_SYSCALL(flags = fcntl(uffd, F_GETFL));
  KJ_SYSCALL(fcntl(uffd, F_SETFL, flags | O_NONBLOCK));
}

// Threads that waited for a shard, or a coordinator, that has died are woken, and fault again. Not to is a known mistake
// of each.
bool wakesAfterTakeover() {
  return !made(failpoints::Mistake::noWakeAfterTakeover);
}
bool wakesAfter(bool adopted) {
  return adopted ? wakesAfterTakeover() : !made(failpoints::Mistake::noWakeAfterShard);
}

}  // namespace

Restore::Restore(RestoreContext& context, RestoreFds fds, shm::Segment segment)
    : context_(context),
      fds_(kj::mv(fds)),
      segment_(std::move(segment)),
      router_(context.pool, segment_, context.latency),
      recording_(context.link, context.log, segment_, router_),
      population_(timer(), context.populations, context.pool, router_, segment_, fds_.source,
                  fds_.target.get()),
      answerer_(fds_.uffd.get(), -1, ""),
      shards_(context.pool, timer(), segment_, fds_.uffd.get(), fds_.source, fds_.layers, router_,
              population_, *this),
      target_(context.io, segment_, {fds_.uffd.get(), fds_.target.get(), fds_.conn.get()}, context.log,
              context.totals, *this),
      release_(context.io, context.turns, context.failpoints, segment_, *this),
      reading_(nullptr),
      ending_(context, fds_, segment_, life_, shards_, target_, release_, *this),
      initial_(context.fetcher, context.log, fds_.source, segment_, population_),
      resharded_(kj::Promise<void>(kj::READY_NOW).fork()),
      tasks_(*this) {
  setNonBlocking(fds_.uffd.get());
  reader_ = kj::heap<UffdReader>(context_.io, fds_.uffd.get(), segment_, router_, context_.failpoints,
                                 context_.options, context_.turns, readerHooks());
}

Restore::~Restore() noexcept(false) {
  reading_ = nullptr;
}

std::shared_ptr<Restore> Restore::begin(RestoreContext& context, const RestoreSpec& spec,
                                        shm::Segment segment, RestoreFds fds) {
  if (spec.policy.flags.killOnLost != 0 && fds.target.get() < 0)
    rpc::refuse(
        rpc::Reason::BAD_TARGET,
        "a target that is to be killed when a page is lost needs a pidfd: give one, or have it poisoned");
  fds.layers = layersOf(fds.source, spec.layerNames);
  std::shared_ptr<Restore> restore(new Restore(context, kj::mv(fds), std::move(segment)));
  restore->initial_.use(spec.policy.workingSet);
  if (restore->policy().recordWorkingSet != 0) restore->recording_.begin();
  restore->segment_.header().state.store(shm::SegmentState::ready, std::memory_order_release);
  restore->store();
  context.failpoints.hit(failpoints::Point::restoreStored);
  restore->segment_.lock().open();
  return restore;
}

std::shared_ptr<Restore> Restore::adopt(RestoreContext& context, RestoreFds fds, int fd, bool anyShardAlive) {
  shm::Segment segment = shm::Segment::attach(fd);
  // With no shard left alive the lock words are made anew, so damage to their bytes is forgotten.
  if (!anyShardAlive) segment.lock().initialise();
  segment.lock().close();
  context.failpoints.hit(failpoints::Point::adoptClaimed);
  if (!segment.activeShardsSound() || segment.activeShards() > context.pool.size()) {
    // Ownership is no matter of truth: every shard that serves now gets a share.
    segment.setActiveShards(context.pool.size());
    segment.extents().deal(context.pool.size());
  }
  segment.header().incarnation.fetch_add(1);
  shm::count(segment.counters().adoptions);
  std::shared_ptr<Restore> restore(new Restore(context, kj::mv(fds), std::move(segment)));
  if (restore->segment_.header().paused.load() == shm::YES) {
    restore->life_.become(Stage::paused);
    restore->reader_->pause();
  }
  return restore;
}

UffdReaderHooks Restore::readerHooks() {
  UffdReaderHooks hooks;
  hooks.fence = [this](unsigned slot) {
    // Then it is our own departure that has the slot, and waits for the target; it may outlive the restore.
    if (life_.stage() == Stage::departing || over()) return false;
    return context_.pool.fence(slot / segment_.facts().workersPerShard,
                               "it held the lock of restore " + name() + " past its deadline");
  };
  hooks.presentFault = [this](const uffd_msg& fault) { answerer_.add(fault); };
  hooks.outsideFault = [this](const uffd_msg& fault) {
    answerer_.add(fault);
    const std::uint64_t address = fault.arg.pagefault.address;
    if (!ending_.faultedOutside(address)) return;
    context_.log.lost("restore " + name() + ": the target faulted at " + fmt::format("{:#x}", address) +
                          ", which it registered but did not name in its regions; it gets SIGBUS there, and "
                          "wherever else it does so",
                      name());
  };
  hooks.removed = [this](const shm::PageRange& pages) { release_.removed(pages); };
  hooks.partRemoved = [this](shm::PageIndex page) {
    shm::count(context_.totals.pagesLost);
    if (std::exchange(partTold_, true)) return;
    context_.log.lost(
        "restore " + name() + ": the target gave up a part of page " + std::to_string(page) +
            ", of 2 MiB, which had not come: it gets an error there, and wherever else it does so",
        name());
  };
  return hooks;
}

void Restore::store() {
  fds_.store(context_.link, id(), recording_.fd(), segment_.fd());
}

void Restore::start() {
  target_.start();
  serveFromOwners();
}

// A target that tracks its writes has to stay registered. A recording is to have every touch.
bool Restore::mayRelease() const {
  return policy().keepRegistered == 0 && policy().recordWorkingSet == 0 && fds_.target.get() >= 0 &&
         (segment_.facts().uffdFeatures & TRACKS_WRITES) == 0;
}

void Restore::serveFromOwners() {
  tasks_.add(shards_.begin().then([this] { serve(); }));
}

// The write side is taken from here on until the gate opens.
kj::Promise<void> Restore::recover() {
  return kj::evalNow([this] { return reader_->recover(); })
      .then([recording = recording_.goOn(kj::mv(fds_.touches))](std::optional<std::string> why) mutable {
        return recording.then([why = std::move(why)] { return why; });
      })
      .then(
          [this](std::optional<std::string> why) {
            if (over()) return;
            target_.start();
            if (failed()) return;
            if (why.has_value()) return fail(rpc::EndReason::SEGMENT_DAMAGED, *why);
            if (auto other = whatChanged(fds_.source, fds_.layers))
              return fail(rpc::EndReason::SOURCE_CHANGED, *other);
            serveFromOwners();
            if (wakesAfterTakeover()) wake();
          },
          [this](kj::Exception&& e) {
            target_.start();
            failOf(e);
          });
}

void Restore::serve() {
  if (!life_.served()) return;
  reading_ = reader_->run().eagerlyEvaluate([this](kj::Exception&& e) { failOf(e); });
  tasks_.add(whenNoneMissing(timer(), segment_, population_).then([this] { completed(); }));
  tasks_.add(initial_.begin([this] { return !over() && !failed(); }));
  // The first faults wait already.
  tasks_.add(lockOn().catch_([this](kj::Exception&& e) {
    spdlog::warn("restore {}: its pages' states are locked in memory as they are touched only: {}", name(),
                 e.getDescription().cStr());
  }));
  if (mayRelease()) release_.begin(fds_.uffd.get(), fds_.target.get(), fds_.source, fds_.layers);
}

// A successor has locked all of it before. With pauses: a step takes as long as several faults, and other restores begin
// meanwhile. What is not locked yet is in memory all the same.
kj::Promise<void> Restore::lockOn() {
  kj::Timer& time = timer();
  return time.afterDelay(LOCK_EVERY).then([this, &time] { return context_.turns.step(time); }).then([this] {
    return life_.ending() || segment_.lockSome() ? kj::Promise<void>(kj::READY_NOW) : lockOn();
  });
}

kj::Promise<void> Restore::shardUp(ShardHandle& shard, std::vector<shm::PageIndex> hopeless) {
  const bool adopted = shard.adopted();
  return shards_.up(shard, std::move(hopeless)).then([this, adopted](bool serves) {
    if (serves && wakesAfter(adopted)) wake();
  });
}

void Restore::pause() {
  if (paused()) rpc::refuse(rpc::Reason::WRONG_PHASE, "restore " + name() + " is paused already");
  if (!life_.may(Stage::paused)) notServed();
  life_.become(Stage::paused);
  segment_.header().paused.store(shm::YES);
  reader_->pause();
  population_.pause(true);
}

void Restore::resume() {
  if (!paused()) rpc::refuse(rpc::Reason::WRONG_PHASE, "restore " + name() + " is not paused");
  life_.become(Stage::serving);
  segment_.header().paused.store(0);
  population_.pause(false);
  reader_->resume();
}

kj::Promise<void> Restore::reshard(std::uint32_t shards) {
  auto dealt = resharded_.addBranch().then([this, shards] { return inReader_.wrap(deal(shards)); }).fork();
  auto answer = dealt.addBranch();
  resharded_ = dealt.addBranch().catch_([](kj::Exception&&) {}).fork();
  leaveFormerOwners();
  return answer;
}

void Restore::leaveFormerOwners() {
  resharded_ = resharded_.addBranch()
                   .then([this] { return inReader_.wrap(formerOwnersLeave()); })
                   .catch_([this](kj::Exception&& e) {
                     spdlog::warn("restore {}: former owners of its extents stay: {}", name(),
                                  e.getDescription().cStr());
                   })
                   .fork();
}

// New owners first: a shard that is asked must be able to answer. Former owners keep the restore attached meanwhile: they
// may still be busy.
kj::Promise<void> Restore::deal(std::uint32_t shards) {
  if (!life_.served() || paused()) notServed();
  return shards_.attachFirst(shards)
      .then([this, shards] {
        if (over() || failed()) rpc::refuse(rpc::Reason::ENDED, "restore " + name() + " has ended meanwhile");
        return reader_->exclusively([this, shards](const shm::ExclusiveGuard&) {
          // Slots of the former owners stay in the drain: they may be in a section still.
          segment_.setActiveShards(std::max(shards, segment_.activeShards()));
          segment_.extents().deal(shards);
        });
      })
      .then([this] {
        population_.dealtOut();
        // A shard that died after its attach and before the deal owned no extent as its successor
        // came up.
        auto attaching = kj::Vector<kj::Promise<void>>();
        for (ShardHandle* shard : shards_.unattachedOwners()) attaching.add(shardUp(*shard, {}));
        return kj::joinPromises(attaching.releaseAsArray());
      });
}

kj::Promise<void> Restore::formerOwnersLeave() {
  const auto shares = segment_.shares();
  std::uint32_t owners = shm::MAX_SHARDS;
  while (owners > 1 && shares[owners - 1] == 0) owners--;
  if (life_.ending() || failed() || owners == segment_.activeShards()) return kj::READY_NOW;
  auto leaving = kj::Vector<kj::Promise<void>>();
  for (std::uint32_t i = owners; i < segment_.activeShards(); i++) {
    ShardHandle* shard = context_.pool.process(i);
    if (shard != nullptr && shard->serves(id()))
      leaving.add(shards_.leaveInTime(*shard, ", of which it owns nothing any more"));
  }
  return kj::joinPromises(leaving.releaseAsArray())
      .then([this, owners] {
        if (over()) return kj::Promise<void>(kj::READY_NOW);
        // The last drain with their slots: what was killed for not letting go has ended its section.
        return reader_->exclusively(
            [this, owners](const shm::ExclusiveGuard&) { segment_.setActiveShards(owners); });
      })
      .then([this] { wake(); });  // faults that were on their way to one
}

std::uint32_t Restore::shardsNeeded() const {
  if (over()) return 0;
  std::uint32_t needed = segment_.activeShards();
  for (std::uint32_t i = needed; i < shm::MAX_SHARDS; i++) {
    const ShardHandle* shard = context_.pool.process(i);
    if (shard != nullptr && shard->serves(id())) needed = i + 1;
  }
  return needed;
}

void Restore::completed() {
  const bool finishing = life_.stage() == Stage::finishing;
  if (life_.may(Stage::complete)) life_.become(Stage::complete);
  complete_.reach();
  // A target that tracks its writes needs the registration, and so its server.
  if (finishing || (policy().keepServing == 0 && (segment_.facts().uffdFeatures & TRACKS_WRITES) == 0))
    end(rpc::EndReason::COMPLETED, "complete: every page is in place or given up, the target runs on alone",
        Release::yes);
}

kj::Promise<RestoreEnd> Restore::whenOver() {
  return over_.whenReached().then([this] { return life_.end(); });
}

void Restore::wake() {
  shm::count(segment_.counters().wakes);
  for (const shm::RegionEntry& region : segment_.regions().entries())
    uffd::wake(fds_.uffd.get(), region.base, region.size);
  uffd::wakeAll(fds_.uffd.get());  // threads that wait outside of the regions were to be told so
}

void Restore::requireDrainable() const {
  if (over()) return;
  if (paused())
    rpc::refuse(rpc::Reason::WRONG_PHASE,
                "restore " + name() + " is paused, and would not be complete: resume it");
  if (failed())
    rpc::refuse(
        rpc::Reason::WRONG_PHASE,
        "restore " + name() + " has failed, and is served errors until its target goes: end that first");
}

void Restore::notServed() const {
  rpc::refuse(rpc::Reason::WRONG_PHASE, "restore " + name() + " is not being served: it " +
                                            (failed() ? "has failed: " + life_.failure()->text
                                                      : std::string("is ") + nameOf(life_.stage())));
}

}  // namespace faultline::coordinator
