#include "coordinator/uffd_reader.h"

#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <spdlog/spdlog.h>

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
      if (!readBatch(std::nullopt)) break;
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
            return readBatch(std::move(guard)) ? serve() : kj::Promise<void>(kj::READY_NOW);
          });
    segment_.counters().drain.record(process::nowNs() - closedAt_);
    if (!readBatch(std::move(guard))) break;
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

// One read(). `guard`: the write side, where removals can come. True: it brought something, and there may be
// more.
bool UffdReader::readBatch(std::optional<shm::ExclusiveGuard> guard) {
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
  if (!flowing_) return false;
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
    if (guard.has_value()) publish(*guard);
  } catch (...) {
    // The guard opens the gate as it goes, and removals that were read are not in the page table.
    segment_.header().state.store(shm::SegmentState::failed);
    throw;
  }
  journal.clear(messages.size());
  failpoints_.hit(Point::beforeOpen);
  if (guard.has_value()) {
    guard->release();
    counters.closed.record(process::nowNs() - closedAt_);
  }
  failpoints_.hit(Point::beforeHandout);
  router_.handOut(readAt);
  for (const uffd_msg& fault : outside_) hooks_.outsideFault(fault);
  outside_.clear();
  return true;
}

void UffdReader::addRemoval(const uffd_msg& message) {
  KJ_REQUIRE(message.event == UFFD_EVENT_REMOVE, "an event was read that this server does not know",
             message.event);
  count(segment_.counters().removes);
  removals_.add(message.arg.remove.start, message.arg.remove.end);
}

void UffdReader::publish(const shm::ExclusiveGuard& guard) {
  for (const AddressRange& removed : removals_.merged()) {
    for (const shm::PageRange range : segment_.regions().pagesIn(removed.start, removed.end)) {
      count(segment_.counters().removedPages, range.count);
      const std::uint64_t step = failpoints_.armed() ? 1 : range.count;
      for (std::uint64_t done = 0; done < range.count; done += step) {
        failpoints_.hit(Point::midMark, range.first + done);
        segment_.pages().markRemoved(guard, {range.first + done, step});
      }
    }
  }
  removals_.clear();
}

void UffdReader::addFault(const uffd_msg& message) {
  const auto page = segment_.regions().pageAt(message.arg.pagefault.address);
  if (!page.has_value()) {
    count(segment_.counters().outsideFaults);
    return outside_.push_back(message);
  }
  if ((message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0) {
    // The target tracks its writes synchronously and has handed that to us as well: let it write.
    const auto at = segment_.regions().locate(*page);
    // Refused while a removal is under way, and then nobody is woken.
    if (uffd::unprotect(uffd_, at.address, at.pageSize) != 0) uffd::wake(uffd_, at.address, at.pageSize);
    return;
  }
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
    publish(guard);
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
