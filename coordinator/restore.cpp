#include "coordinator/restore.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <linux/userfaultfd.h>

#include <algorithm>
#include <utility>

#include "failpoints/mistakes.h"
#include "rpc/fd.h"
#include "shmtracker/error.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

using failpoints::made;
using Part = process::KeptName::Part;

namespace {

// Pages that are looked at in one go, a few ms.
constexpr std::uint64_t FIND_STEP = 1u << 24;
constexpr kj::Duration COMPLETION_CHECK = 20 * kj::MILLISECONDS;
constexpr std::size_t OUTSIDE_NOTED = 64;  // faults that no region covers
// include/uapi/linux/userfaultfd.h: the target tracks its writes through the same registration.
constexpr std::uint64_t TRACKS_WRITES = UFFD_FEATURE_PAGEFAULT_FLAG_WP | (1ull << 15);  // WP_ASYNC, Linux 6.7

// Polling needs it, and so does a read() that must never wait (man 2 userfaultfd).
void setNonBlocking(int uffd) {
  int flags;
  KJ_SYSCALL(flags = fcntl(uffd, F_GETFL));
  KJ_SYSCALL(fcntl(uffd, F_SETFL, flags | O_NONBLOCK));
}

}  // namespace

Restore::Restore(RestoreContext& context, RestoreFds fds, shm::Segment segment)
    : context_(context),
      fds_(kj::mv(fds)),
      segment_(std::move(segment)),
      router_(context.pool, segment_, context.latency),
      population_(context.pool, router_, segment_),
      answerer_(fds_.uffd.get(), -1, ""),
      look_(segment_.regions().entries()),
      reading_(nullptr),
      ready_(nullptr),
      complete_(nullptr),
      overPromise_(nullptr),
      tasks_(*this) {
  auto fork = [](kj::Own<kj::PromiseFulfiller<void>>& fulfiller, kj::ForkedPromise<void>& promise) {
    auto paf = kj::newPromiseAndFulfiller<void>();
    fulfiller = kj::mv(paf.fulfiller);
    promise = paf.promise.fork();
  };
  fork(readyFulfiller_, ready_);
  fork(completeFulfiller_, complete_);
  fork(overFulfiller_, overPromise_);
  setNonBlocking(fds_.uffd.get());
  reader_ = kj::heap<UffdReader>(context_.io, fds_.uffd.get(), segment_, router_, context_.failpoints,
                                 context_.options, context_.turns, readerHooks());
  if (fds_.target.get() >= 0)
    peerExit_ = kj::heap<kj::UnixEventPort::FdObserver>(context_.io.unixEventPort, fds_.target.get(),
                                                        kj::UnixEventPort::FdObserver::OBSERVE_READ);
  if (fds_.conn.get() >= 0)
    connSays_ = kj::heap<kj::UnixEventPort::FdObserver>(context_.io.unixEventPort, fds_.conn.get(),
                                                        kj::UnixEventPort::FdObserver::OBSERVE_READ);
}

Restore::~Restore() noexcept(false) {
  reading_ = nullptr;
}

kj::Own<Restore> Restore::begin(RestoreContext& context, const RestoreSpec& spec, shm::Segment segment,
                                RestoreFds fds) {
  if (spec.policy.flags.killOnLost != 0 && fds.target.get() < 0)
    rpc::refuse(
        rpc::Reason::BAD_TARGET,
        "a target that is to be killed when a page is lost needs a pidfd: give one, or have it poisoned");
  fds.layers = layersOf(fds.source, spec.layerNames);
  auto restore = kj::Own<Restore>(new Restore(context, kj::mv(fds), std::move(segment)),
                                  kj::_::HeapDisposer<Restore>::instance);
  restore->useWorkingSet(spec.policy.workingSet);
  if (restore->policy().recordWorkingSet != 0) restore->record(-1);
  restore->segment_.header().state.store(shm::SegmentState::ready, std::memory_order_release);
  restore->store();
  context.failpoints.hit(failpoints::Point::restoreStored);
  restore->segment_.lock().open();
  return restore;
}

kj::Own<Restore> Restore::adopt(RestoreContext& context, RestoreFds fds, int fd, bool anyShardAlive) {
  shm::Segment segment = shm::Segment::attach(fd, shm::Segment::Residency::resident);
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
  const kj::AutoCloseFd touches = kj::mv(fds.touches);
  auto restore = kj::Own<Restore>(new Restore(context, kj::mv(fds), std::move(segment)),
                                  kj::_::HeapDisposer<Restore>::instance);
  if (touches.get() >= 0) restore->record(touches.get());
  if (restore->segment_.header().paused.load() == shm::YES) {
    restore->phase_ = Phase::paused;
    restore->reader_->pause();
  }
  return restore;
}

UffdReaderHooks Restore::readerHooks() {
  UffdReaderHooks hooks;
  hooks.fence = [this](unsigned slot) {
    // Then it is our own departure that has the slot, and waits for the target.
    if (departing_) return false;
    return context_.pool.fence(slot / segment_.facts().workersPerShard,
                               "it held the lock of restore " + name() + " past its deadline");
  };
  hooks.presentFault = [this](const uffd_msg& fault) { answerer_.add(fault); };
  hooks.outsideFault = [this](const uffd_msg& fault) {
    answerer_.add(fault);
    // A target can make as many as it likes.
    if (outside_.size() < OUTSIDE_NOTED) outside_.push_back(fault.arg.pagefault.address);
    if (outside_.size() > 1) return;
    char text[32];
    snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(fault.arg.pagefault.address));
    context_.log.add("restore " + name() + ": the target faulted at " + text +
                     ", which it registered but did not name in its regions; it gets SIGBUS there, and "
                     "wherever else it does so");
  };
  return hooks;
}

// The segment first: without it, what is left was never durable.
void Restore::drop(SupervisorLink& link, std::uint64_t id, std::size_t layers) {
  for (const Part part : {Part::segment, Part::uffd, Part::conn, Part::target, Part::touches})
    link.drop(process::KeptName::restore(id, part));
  if (layers > 1) link.drop(process::KeptName::restore(id, Part::names));
  coordinator::drop(link, process::KeptName::restore(id, Part::segment), layers);
}

void Restore::store() {
  SupervisorLink& link = context_.link;
  link.store(kept(Part::uffd), fds_.uffd.get());
  coordinator::store(link, kept(Part::segment), fds_.source);
  if (!fds_.layers.empty()) link.store(kept(Part::names), keptLayers(fds_.layers));
  if (fds_.conn.get() >= 0) link.store(kept(Part::conn), fds_.conn.get());
  if (fds_.target.get() >= 0) link.store(kept(Part::target), fds_.target.get());
  if (touches_ != nullptr) link.store(kept(Part::touches), touches_->fd());
  link.store(kept(Part::segment), segment_.fd());
}

void Restore::start() {
  watch();
  serveFromOwners();
}

void Restore::serveFromOwners() {
  auto attaching = kj::Vector<kj::Promise<void>>();
  const auto shares = segment_.shares();
  for (std::uint32_t i = 0; i < segment_.activeShards(); i++)
    if (ShardHandle* shard = shares[i] > 0 ? context_.pool.up(i) : nullptr)
      attaching.add(attachTo(*shard).catch_([this](kj::Exception&& e) {
        // A shard that dies just now comes back through shardUp(); anything else ends the restore.
        if (e.getType() != kj::Exception::Type::DISCONNECTED)
          fail(rpc::EndReason::NOT_SERVABLE, rpc::refusalOf(e).message);
      }));
  tasks_.add(kj::joinPromises(attaching.releaseAsArray()).then([this] { serve(); }));
}

kj::Promise<void> Restore::recover() {
  return kj::evalNow([this] { return reader_->recover(); })
      .then(
          [this](std::optional<std::string> why) {
            if (over_) return;
            watch();
            if (why.has_value()) return fail(rpc::EndReason::SEGMENT_DAMAGED, *why);
            if (auto other = whatChanged(fds_.source, fds_.layers))
              return fail(rpc::EndReason::SOURCE_CHANGED, *other);
            serveFromOwners();
            if (!made(failpoints::Mistake::noWakeAfterTakeover)) wake();
          },
          [this](kj::Exception&& e) {
            watch();
            failOf(e);
          });
}

void Restore::serve() {
  if (ending_ || serving_ || phase_ == Phase::failed) return;
  serving_ = true;
  reading_ = reader_->run().eagerlyEvaluate([this](kj::Exception&& e) { failOf(e); });
  tasks_.add(watchCompletion());
  populateFromTheStart();
}

// The working set goes first and alone: what comes of it is worth most before the target touches it.
void Restore::populateFromTheStart() {
  if (workingSet_.empty()) {
    if (segment_.header().prefaultAll.load() == shm::YES) population_.begin({});
    return;
  }
  auto job = population_.begin(std::exchange(workingSet_, {}));
  tasks_.add(job->whenFinished().then([this, job] {
    if (!over_ && phase_ != Phase::failed) populateFromTheStart();
  }));
}

void Restore::useWorkingSet(const WorkingSet& set) {
  const auto regions = segment_.regions().regions();
  if (auto why = whyNotUsable(set, regions)) {
    workingSetRefused_ = *why;
    context_.log.add("restore " + name() + ": the working set is not used: " + *why);
  } else {
    workingSet_ = pagesOf(set, regions);
  }
}

// Records on a predecessor's recording, or (-1) on a new one. Without a recording the restore goes on: it is
// worth more.
void Restore::record(int fd) {
  const std::uint64_t pages = segment_.pages().pageCount();
  auto failure = kj::runCatchingExceptions([&] {
    touches_ = fd < 0 ? std::make_shared<TouchRecorder>(pages) : std::make_shared<TouchRecorder>(fd, pages);
    router_.record(*touches_);
  });
  KJ_IF_MAYBE (e, failure) {
    context_.log.add("restore " + name() + ": no working set is recorded: " + e->getDescription().cStr());
    context_.link.drop(kept(Part::touches));
  }
}

kj::Promise<void> Restore::attachTo(ShardHandle& shard, std::vector<shm::PageIndex> hopeless) {
  return kj::evalNow([&] { return shard.attach(id(), fds_.uffd.get(), segment_.fd(), fds_.source, fds_.layers); })
      .then([this, &shard, hopeless = std::move(hopeless)]() -> kj::Promise<void> {
        // Before it is handed any fault: what killed its predecessors must not be met again.
        return hopeless.empty() ? kj::Promise<void>(kj::READY_NOW)
                                : poison(shard, hopeless, "one shard after the other died at it");
      })
      .then([this, &shard, index = shard.index(), pid = shard.pid()] {
        // Its answer may be heard after its death.
        if (!context_.pool.lives(index, pid))
          kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the shard has died", index, pid));
        if (!wantsShards()) return;
        // From here on the shard sees each change: what it was attached with is what the restore began with.
        if (auto why = whatChanged(fds_.source, fds_.layers)) return fail(rpc::EndReason::SOURCE_CHANGED, *why);
        router_.setAttached(index, true);
        population_.shardUp(shard, phase_ == Phase::paused);
        const auto shares = segment_.shares();
        bool all = true;
        for (std::uint32_t i = 0; i < segment_.activeShards(); i++)
          all &= router_.attached(i) || shares[i] == 0;
        if (all) readyFulfiller_->fulfill();
      });
}

kj::Promise<void> Restore::shardUp(ShardHandle& shard, std::vector<shm::PageIndex> hopeless) {
  if (!wantsShards() || !ownedBy(shard.index())) return kj::READY_NOW;
  return attachTo(shard, std::move(hopeless))
      .then([this, &shard] {
        if (!router_.attached(shard.index())) return;
        if (!made(shard.adopted() ? failpoints::Mistake::noWakeAfterTakeover
                                  : failpoints::Mistake::noWakeAfterShard))
          wake();
      })
      .catch_([this](kj::Exception&& e) {
        // A shard that dies just now comes by here again; one that lives and does not serve us would leave
        // its pages without an answer for ever.
        if (e.getType() == kj::Exception::Type::DISCONNECTED) kj::throwFatalException(kj::mv(e));
        fail(rpc::EndReason::NOT_SERVABLE, rpc::refusalOf(e).message);
      });
}

void Restore::shardDied(std::uint32_t index) {
  router_.setAttached(index, false);
  population_.shardGone(index);
}

kj::Promise<void> Restore::shardLeaves(ShardHandle& shard) {
  shardDied(shard.index());
  return shard.letGo(id());
}

void Restore::pause() {
  if (phase_ == Phase::paused)
    rpc::refuse(rpc::Reason::WRONG_PHASE, "restore " + name() + " is paused already");
  if (phase_ != Phase::serving) notServed();
  phase_ = Phase::paused;
  segment_.header().paused.store(shm::YES);
  reader_->pause();
  population_.hold(true);
}

void Restore::resume() {
  if (phase_ != Phase::paused) rpc::refuse(rpc::Reason::WRONG_PHASE, "restore " + name() + " is not paused");
  phase_ = Phase::serving;
  segment_.header().paused.store(0);
  population_.hold(false);
  reader_->resume();
}

kj::Promise<void> Restore::poison(ShardHandle& shard, const std::vector<shm::PageIndex>& pages,
                                  const std::string& reason) {
  auto request = shard.rpc().poisonRequest();
  request.setRestore(id());
  request.setReason(reason.c_str());
  auto list = request.initPages(static_cast<unsigned>(pages.size()));
  for (unsigned i = 0; i < pages.size(); i++) list.set(i, pages[i]);
  return request.send().ignoreResult();
}

kj::Promise<void> Restore::reshard(std::uint32_t shards) {
  if (phase_ != Phase::serving && phase_ != Phase::complete) notServed();
  // New owners first: a shard that is asked must be able to answer. Former owners keep the restore attached:
  // they may still be busy.
  auto attaching = kj::Vector<kj::Promise<void>>();
  for (std::uint32_t i = 0; i < shards; i++)
    if (!router_.attached(i)) {
      ShardHandle* shard = context_.pool.up(i);
      if (shard == nullptr)
        rpc::refuse(rpc::Reason::NOT_READY, "shard " + std::to_string(i) + " is not up: try again");
      attaching.add(attachTo(*shard));
    }
  auto dealt = kj::joinPromises(attaching.releaseAsArray())
                   .then([this, shards] {
                     if (over_ || phase_ == Phase::failed)
                       rpc::refuse(rpc::Reason::ENDED, "restore " + name() + " has ended meanwhile");
                     return reader_->exclusively([this, shards](const shm::ExclusiveGuard&) {
                       // Slots of the former owners stay in the drain: they may be in a section still.
                       segment_.setActiveShards(std::max(shards, segment_.activeShards()));
                       segment_.extents().deal(shards);
                     });
                   })
                   .then([this] {
                     population_.dealtOut();
                     return attachOwners();
                   });
  return inReader_.wrap(kj::mv(dealt));
}

// A shard that died after its attach and before the deal owned no extent as its successor came up.
kj::Promise<void> Restore::attachOwners() {
  auto attaching = kj::Vector<kj::Promise<void>>();
  for (std::uint32_t i = 0; i < segment_.activeShards(); i++)
    if (ShardHandle* shard = router_.attached(i) ? nullptr : context_.pool.up(i))
      attaching.add(shardUp(*shard, {}));
  return kj::joinPromises(attaching.releaseAsArray());
}

kj::Promise<void> Restore::watchCompletion() {
  const shm::PageTable& pages = segment_.pages();
  const shm::PageRange step{firstMissing_, std::min(FIND_STEP, pages.pageCount() - firstMissing_)};
  firstMissing_ = pages.find(step, shm::PageState::missing);
  if (firstMissing_ == step.end() && firstMissing_ < pages.pageCount())
    return context_.io.provider->getTimer().afterDelay(0 * kj::SECONDS).then([this] {
      return watchCompletion();
    });
  if (firstMissing_ < pages.pageCount())
    return context_.io.provider->getTimer()
        .afterDelay(COMPLETION_CHECK)
        .exclusiveJoin(population_.whenNextFinishes())
        .then([this] { return watchCompletion(); });
  if (phase_ == Phase::serving) phase_ = Phase::complete;
  completeFulfiller_->fulfill();
  // A target that tracks its writes needs the registration, and so its server.
  if (finishing_ || (policy().keepServing == 0 && (segment_.facts().uffdFeatures & TRACKS_WRITES) == 0))
    end(rpc::EndReason::COMPLETED, "complete: every page is in place or given up, the target runs on alone",
        Release::yes);
  return kj::READY_NOW;
}

kj::Promise<RestoreEnd> Restore::whenOver() {
  return overPromise_.addBranch().then([this] { return end_; });
}

void Restore::wake() {
  shm::count(segment_.counters().wakes);
  for (const shm::RegionEntry& region : segment_.regions().entries())
    uffd::wake(fds_.uffd.get(), region.base, region.size);
  uffd::wakeAll(fds_.uffd.get());  // threads that wait outside of the regions were to be told so
}

void Restore::notServed() const {
  rpc::refuse(rpc::Reason::WRONG_PHASE,
              "restore " + name() + " is not being served" +
                  (failureText_.empty() ? ": it is paused or complete" : ": it has failed: " + failureText_));
}

void Restore::taskFailed(kj::Exception&& exception) {
  failOf(exception);
}

}  // namespace faultline::coordinator
