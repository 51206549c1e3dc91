#include "coordinator/uffd_reader.h"

#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "failpoints/mistakes.h"
#include "process/clock.h"
#include "shmtracker/error.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

using failpoints::made;
using failpoints::Mistake;
using failpoints::Point;
using process::nowNs;
using shm::count;

namespace {

// How long a busy slot is waited for before the loop sees to its other work, and how soon it is looked at
// again.
constexpr std::chrono::microseconds SLOT_PATIENCE{200};
constexpr kj::Duration SLOT_RETRY = 500 * kj::MICROSECONDS;
// Pages that are marked removed in one go, a few ms.
constexpr std::uint64_t MARK_STEP = 1u << 21;

}  // namespace

UffdReader::UffdReader(kj::AsyncIoContext& io, int uffd, shm::Segment& segment, FaultRouter& router,
                       failpoints::Failpoints& failpoints, const Options& options, ReadingTurns& turns,
                       UffdReaderHooks hooks)
    : io_(io),
      uffd_(uffd),
      segment_(segment),
      router_(router),
      failpoints_(failpoints),
      options_(options),
      turns_(turns),
      hooks_(std::move(hooks)),
      observer_(io.unixEventPort, uffd, kj::UnixEventPort::FdObserver::OBSERVE_READ),
      gated_((segment.facts().uffdFeatures & UFFD_FEATURE_EVENT_REMOVE) != 0) {}

UffdReader::~UffdReader() {
  segment_.lock().open();
}

kj::Promise<void> UffdReader::run() {
  if (paused_) {
    auto paf = kj::newPromiseAndFulfiller<void>();
    resumed_ = kj::mv(paf.fulfiller);
    return paf.promise.then([this] { return run(); });
  }
  return serve().then([this] { return waitReadable(); }).then([this] { return run(); });
}

kj::Promise<void> UffdReader::waitReadable() {
  // Asked for only after a look that found nothing more: the observer is edge-triggered.
  return paused_ ? kj::Promise<void>(kj::READY_NOW) : observer_.whenBecomesReadable();
}

void UffdReader::resume() {
  paused_ = false;
  if (resumed_.get() != nullptr) resumed_->fulfill();
  resumed_ = nullptr;
}

kj::Promise<void> UffdReader::serve() {
  for (unsigned left = turns_.batches(this); !paused_; left--) {
    if (draining_) return io_.provider->getTimer().afterDelay(SLOT_RETRY).then([this] { return serve(); });
    // By the timer, since that has the loop look at its fds as well.
    if (left == 0)
      return io_.provider->getTimer().afterDelay(0 * kj::SECONDS).then([this] { return serve(); });
    if (flowing_) {
      turns_.makeWay();
      // Not for nothing: shards would wait at the gate, and we for them.
      if (!readable()) {
        flowing_ = false;
        break;
      }
    }
    if (!gated_ || made(Mistake::lockAfterRead)) {
      if (readBatch(std::nullopt) == Batch::nothing) break;
      continue;
    }
    segment_.lock().close();
    closedAt_ = process::nowNs();
    failpoints_.hit(Point::gateClosed);
    unsigned next = 0;
    auto guard = segment_.lock().drainFrom(next, segment_.activeSlots(), SLOT_PATIENCE, countOwnerDied());
    if (!guard.has_value())
      return alone(drainOn(next, closedAt_ + std::chrono::nanoseconds(options_.lockDeadline).count()))
          .then([this](shm::ExclusiveGuard guard) {
            const Batch batch = readBatch(std::move(guard));
            if (batch == Batch::marking) return publishOn().then([this] { return serve(); });
            return batch == Batch::done ? serve() : kj::Promise<void>(kj::READY_NOW);
          });
    segment_.counters().drain.record(process::nowNs() - closedAt_);
    const Batch batch = readBatch(std::move(guard));
    if (batch == Batch::marking) return publishOn().then([this] { return serve(); });
    if (batch == Batch::nothing) break;
  }
  return kj::READY_NOW;
}

kj::Promise<shm::ExclusiveGuard> UffdReader::drain() {
  segment_.lock().close();
  closedAt_ = process::nowNs();
  return drainOn(0, closedAt_ + std::chrono::nanoseconds(options_.lockDeadline).count());
}

// Allows one writer at a time: draining_ is set until `drained` has its guard, fails or is dropped.
kj::Promise<shm::ExclusiveGuard> UffdReader::alone(kj::Promise<shm::ExclusiveGuard> drained) {
  draining_ = true;
  return drained.attach(kj::defer([this] { draining_ = false; }));
}

// The gate is closed; goes on from slot `next`, other work of the loop in between.
kj::Promise<shm::ExclusiveGuard> UffdReader::drainOn(unsigned next, std::uint64_t deadline) {
  auto goOn = [&] {
    auto guard = segment_.lock().drainFrom(next, segment_.activeSlots(), SLOT_PATIENCE, countOwnerDied());
    if (guard.has_value()) segment_.counters().drain.record(process::nowNs() - closedAt_);
    return guard;
  };
  if (auto guard = goOn()) return std::move(*guard);
  if (fencing_ && process::nowNs() >= deadline && hooks_.fence(next)) {
    count(segment_.counters().fences);
    // The kernel has given back what the dead held. To kill one successor after the other for a word that
    // says otherwise would cost every restore its shards.
    const unsigned fenced = next;
    if (auto guard = goOn()) return std::move(*guard);
    if (next == fenced) lockIsDamaged(next);
  }
  return io_.provider->getTimer().afterDelay(SLOT_RETRY).then([this, next, deadline] {
    return drainOn(next, deadline);
  });
}

void UffdReader::lockIsDamaged(unsigned slot) {
  damaged_ = true;
  throw shm::SegmentError("slot " + std::to_string(slot) + " of the lock is held, and its shard is dead");
}

kj::Promise<void> UffdReader::exclusively(std::function<void(const shm::ExclusiveGuard&)> action) {
  if (damaged_) return KJ_EXCEPTION(FAILED, "the lock is damaged");
  // serve() may be in the middle of a slow drain.
  if (draining_)
    return io_.provider->getTimer().afterDelay(SLOT_RETRY).then([this, action = std::move(action)]() mutable {
      return exclusively(std::move(action));
    });
  return alone(kj::evalNow([this] { return drain(); }))
      .then([action = std::move(action)](shm::ExclusiveGuard guard) { action(guard); },
            [this](kj::Exception&& e) {
              segment_.lock().open();  // read() was not called
              kj::throwFatalException(kj::mv(e));
            });
}

std::function<void(unsigned)> UffdReader::countOwnerDied() {
  return [this](unsigned slot) {
    count(segment_.counters().slotsRecovered);
    spdlog::debug("restore {}: slot {} was held by a thread that died", segment_.name(), slot);
  };
}

bool UffdReader::readable() const {
  pollfd entry{uffd_, POLLIN, 0};
  return poll(&entry, 1, 0) > 0;
}

// One read(). `guard`: the write side, where removals can come. done: it brought something, and there may be
// more. marking: it removed so much that publishOn() has to go on with it.
UffdReader::Batch UffdReader::readBatch(std::optional<shm::ExclusiveGuard> guard) {
  shm::Journal journal = segment_.journal();
  std::vector<uffd_msg> privateMessages;
  if (made(Mistake::privateReadBuffer)) {
    privateMessages.resize(shm::JOURNAL_MESSAGES);
    journal = shm::Journal(privateMessages);
  }
  failpoints_.hit(Point::beforeRead);
  const auto messages = journal.read(uffd_);
  const std::uint64_t readAt = process::nowNs();
  failpoints_.hit(Point::afterRead);
  if (made(Mistake::lockAfterRead) && gated_ && !messages.empty())
    guard.emplace(segment_.lock().lock(segment_.activeSlots(),
                                       {options_.lockDeadline, hooks_.fence, countOwnerDied()}));
  flowing_ = !messages.empty();
  if (!flowing_) return Batch::nothing;
  turns_.had(this);

  auto& counters = segment_.counters();
  count(counters.batches);
  try {
    std::uint64_t faults = 0;
    for (const uffd_msg& message : messages) {
      if (message.event == UFFD_EVENT_PAGEFAULT) {
        addFault(message);
        faults++;
      } else {
        addRemoval(message);
      }
    }
    count(counters.faults, faults);
    count(counters.readTimes, faults * readAt);
    messages_ = messages.size();
    readAt_ = readAt;
    if (guard.has_value()) {
      collectRemovals();
      if (!publishSome(*guard)) {
        marking_.emplace(std::move(*guard));
        return Batch::marking;
      }
    }
  } catch (...) {
    // The guard opens the gate as it goes, and removals that were read are not in the page table.
    segment_.header().state.store(shm::SegmentState::failed);
    throw;
  }
  finishBatch(std::move(guard));
  return Batch::done;
}

void UffdReader::finishBatch(std::optional<shm::ExclusiveGuard> guard) {
  segment_.journal().clear(messages_);
  failpoints_.hit(Point::beforeOpen);
  if (guard.has_value()) {
    guard->release();
    segment_.counters().closed.record(process::nowNs() - closedAt_);
  }
  failpoints_.hit(Point::beforeHandout);
  router_.handOut(readAt_);
  for (const uffd_msg& fault : present_) hooks_.presentFault(fault);
  present_.clear();
  for (const uffd_msg& fault : outside_) hooks_.outsideFault(fault);
  outside_.clear();
  for (const shm::PageIndex page : std::exchange(parts_, {})) hooks_.partRemoved(page);
}

void UffdReader::addRemoval(const uffd_msg& message) {
  KJ_REQUIRE(message.event == UFFD_EVENT_REMOVE, "an event was read that this server does not know",
             message.event);
  count(segment_.counters().removes);
  removals_.add(message.arg.remove.start, message.arg.remove.end);
}

void UffdReader::collectRemovals() {
  for (const AddressRange& removed : removals_.merged()) {
    for (const shm::PageRange range : segment_.regions().pagesIn(removed.start, removed.end)) {
      count(segment_.counters().removedPages, range.count);
      toMark_.push_back(range);
    }
    addPart(removed.start, removed.start, removed.end);
    addPart(removed.end - 1, removed.start, removed.end);
  }
  removals_.clear();
  std::reverse(toMark_.begin(), toMark_.end());
}

// MADV_REMOVE of shared huge pages takes any range. A page that is there the kernel clears in part. Of one that is to
// come neither the source's bytes nor zeros would be right.
void UffdReader::addPart(std::uint64_t address, std::uint64_t start, std::uint64_t end) {
  const auto page = segment_.regions().pageAt(address);
  if (!page.has_value() || segment_.pages().state(*page) != shm::PageState::missing) return;
  const shm::PageLocation location = segment_.regions().locate(*page);
  if (location.address < start || location.address + location.pageSize > end) parts_.push_back(*page);
}

// Marks at most MARK_STEP pages. True: all are marked.
bool UffdReader::publishSome(const shm::ExclusiveGuard& guard) {
  for (const shm::PageIndex page : parts_)
    if (segment_.pages().state(page) == shm::PageState::missing) segment_.pages().markGone(guard, {page, 1});
  for (std::uint64_t left = MARK_STEP; !toMark_.empty();) {
    if (left == 0) return false;
    shm::PageRange& range = toMark_.back();
    const shm::PageRange step{range.first,
                              std::min(range.count, failpoints_.armed() ? std::uint64_t{1} : left)};
    failpoints_.hit(Point::midMark, step.first);
    segment_.pages().markRemoved(guard, step);
    range = {step.end(), range.count - step.count};
    if (range.count == 0) toMark_.pop_back();
    left -= step.count;
  }
  return true;
}

// A removal of terabytes: the gate of this restore stays closed until all of it is marked, others are served in
// between. A coordinator that dies meanwhile leaves the gate closed and the messages in the journal.
kj::Promise<void> UffdReader::publishOn() {
  draining_ = true;
  return markOn().attach(kj::defer([this] {
    draining_ = false;
    if (!marking_.has_value()) return;
    // Dropped half way, which ends the restore: the gate opens, and the page table is not to be believed.
    segment_.header().state.store(shm::SegmentState::failed);
    marking_.reset();
  }));
}

kj::Promise<void> UffdReader::markOn() {
  return io_.provider->getTimer().afterDelay(0 * kj::SECONDS).then([this]() -> kj::Promise<void> {
    if (!publishSome(*marking_)) return markOn();
    std::optional<shm::ExclusiveGuard> guard(std::move(*marking_));
    marking_.reset();
    finishBatch(std::move(guard));
    return kj::READY_NOW;
  });
}

void UffdReader::addFault(const uffd_msg& message) {
  const auto page = segment_.regions().pageAt(message.arg.pagefault.address);
  if (!page.has_value()) {
    count(segment_.counters().outsideFaults);
    return outside_.push_back(message);
  }
  // The target tracks its writes synchronously, or has registered for minor faults, and has handed that to us
  // as well.
  if (alone_ || (message.arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR)) != 0)
    return present_.push_back(message);
  router_.add(*page);
}

kj::Promise<std::optional<std::string>> UffdReader::recover() {
  if (made(Mistake::openBeforeReplay) || made(Mistake::skipDrain)) segment_.lock().open();
  auto drained =
      made(Mistake::skipDrain) ? kj::Promise<shm::ExclusiveGuard>(segment_.lock().lock(0, {})) : drain();
  // Said before the guard opens the gate, so that no commit section believes what is doubtful.
  auto giveUp = [this](std::string why) -> std::optional<std::string> {
    segment_.header().state.store(shm::SegmentState::failed);
    return why;
  };
  return drained.then([this, giveUp](shm::ExclusiveGuard guard) -> std::optional<std::string> {
    if (made(Mistake::openBeforeReplay)) segment_.lock().open();
    failpoints_.hit(Point::adoptDrained);
    if (!segment_.servable()) return giveUp("its segment says that it had failed, or makes no sense");
    shm::Journal journal = segment_.journal();
    for (const uffd_msg& message : journal.all()) {
      if (message.event == 0 || message.event == UFFD_EVENT_PAGEFAULT) continue;
      if (message.event != UFFD_EVENT_REMOVE)
        return giveUp("the journal holds an event that cannot be: " + std::to_string(message.event));
      addRemoval(message);
      count(segment_.counters().replayed);
    }
    collectRemovals();
    while (!publishSome(guard)) continue;
    failpoints_.hit(Point::adoptReplayed);
    const shm::PageCheck check = segment_.pages().check(guard);
    if (check.repaired > 0)
      spdlog::warn("restore {}: the state of {} pages was repaired from its copy", segment_.name(),
                   check.repaired);
    if (check.doubtful > 0)
      return giveUp("nobody can tell whether " + std::to_string(check.doubtful) +
                    " pages were given up, the first is " + std::to_string(check.firstDoubtful));
    journal.clear(journal.capacity());
    guard.release();
    failpoints_.hit(Point::adoptOpened);
    return std::nullopt;
  });
}

}  // namespace faultline::coordinator
