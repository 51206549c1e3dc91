#include "coordinator/uffd_reader.h"

#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <spdlog/spdlog.h>

#include <exception>
#include <utility>
#include <vector>

#include "coordinator/recovery.h"
#include "failpoints/mistakes.h"
#include "process/clock.h"

namespace faultline::coordinator {

using failpoints::made;
using failpoints::Mistake;
using failpoints::Point;
using process::nowNs;
using shm::count;

UffdReader::UffdReader(kj::AsyncIoContext& io, int uffd, shm::Segment& segment, FaultRouter& router,
                       failpoints::Failpoints& failpoints, const Options& options, ReadingTurns& turns,
                       UffdReaderHooks hooks)
    : io_(io),
      timer_(io.provider->getTimer()),
      uffd_(uffd),
      segment_(segment),
      failpoints_(failpoints),
      turns_(turns),
      writeSide_(timer_, segment, options, std::move(hooks.fence)),
      events_(segment, router, failpoints, std::move(hooks.presentFault), std::move(hooks.outsideFault),
              std::move(hooks.partRemoved), std::move(hooks.removed)),
      observer_(io.unixEventPort, uffd, kj::UnixEventPort::FdObserver::OBSERVE_READ),
      gated_((segment.facts().uffdFeatures & UFFD_FEATURE_EVENT_REMOVE) != 0) {}

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

// --- steps that a deliberate mistake breaks (failpoints/mistakes.h) ---

// The write side is held before read(), wherever removals can come.
bool UffdReader::readsUnderLock() const {
  return gated_ && !made(Mistake::lockAfterRead);
}

// The write side, where the mistake takes it after read(); else nothing.
std::optional<shm::ExclusiveGuard> UffdReader::lockAfterRead() {
  if (!made(Mistake::lockAfterRead) || !gated_) return std::nullopt;
  writeSide_.close();
  for (;;)
    if (auto guard = writeSide_.tryDrain()) return guard;
}

// read() fills the journal itself, so that what was read lies in no memory that dies with this process.
shm::Journal UffdReader::readBuffer() {
  if (!made(Mistake::privateReadBuffer)) return segment_.journal();
  static std::vector<uffd_msg> messages(shm::JOURNAL_MESSAGES);
  return shm::Journal(messages);
}

// --- the protocol ---

kj::Promise<void> UffdReader::serve() {
  for (unsigned left = turns_.batches(this); !paused_; left--) {
    if (writeSide_.taken()) return writeSide_.later().then([this] { return serve(); });
    // By the timer, since that has the loop look at its fds as well.
    if (left == 0) return timer_.afterDelay(0 * kj::SECONDS).then([this] { return serve(); });
    if (flowing_) {
      turns_.makeWay();
      // Not for nothing: shards would wait at the gate, and we for them.
      if (!readable()) {
        flowing_ = false;
        break;
      }
    }
    Batch batch = Batch::nothing;
    if (readsUnderLock()) {
      writeSide_.close();
      failpoints_.hit(Point::gateClosed);
      auto guard = writeSide_.tryDrain();
      if (!guard.has_value())
        return writeSide_.drained().then(
            [this](shm::ExclusiveGuard drained) { return serveAfter(readBatch(std::move(drained))); });
      batch = readBatch(std::move(guard));
    } else {
      batch = readBatch(std::nullopt);
    }
    if (batch == Batch::nothing) break;
    if (batch == Batch::marking) return serveAfter(batch);
  }
  return kj::READY_NOW;
}

kj::Promise<void> UffdReader::serveAfter(Batch batch) {
  switch (batch) {
    case Batch::nothing:
      return kj::READY_NOW;
    case Batch::done:
      return serve();
    case Batch::marking:
      return publishOn().then([this] { return serve(); });
  }
  KJ_UNREACHABLE;
}

bool UffdReader::readable() const {
  pollfd entry{uffd_, POLLIN, 0};
  return poll(&entry, 1, 0) > 0;
}

// One read(). `guard`: the write side, where removals can come. done: it brought something, and there may be
// more. marking: it removed so much that publishOn() has to go on with it.
UffdReader::Batch UffdReader::readBatch(std::optional<shm::ExclusiveGuard> guard) {
  shm::Journal journal = readBuffer();
  failpoints_.hit(Point::beforeRead);
  const auto messages = journal.read(uffd_);
  readAt_ = nowNs();
  failpoints_.hit(Point::afterRead);
  flowing_ = !messages.empty();
  if (!flowing_) return Batch::nothing;
  if (auto late = lockAfterRead()) guard.emplace(std::move(*late));
  turns_.had(this);
  messages_ = messages.size();

  auto& counters = segment_.counters();
  count(counters.batches);
  try {
    for (const uffd_msg& message : messages)
      KJ_REQUIRE(events_.add(message), "an event was read that this server does not know", message.event);
    const std::uint64_t faults = events_.complete();
    count(counters.faults, faults);
    count(counters.readTimes, faults * readAt_);
    if (guard.has_value() && !events_.publishSome(*guard)) {
      marking_.emplace(std::move(*guard));
      return Batch::marking;
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
  if (guard.has_value()) writeSide_.open(std::move(*guard));
  failpoints_.hit(Point::beforeHandout);
  events_.handOut(readAt_);
}

// A removal of terabytes: the gate of this restore stays closed until all of it is marked, others are served in
// between. A coordinator that dies meanwhile leaves the gate closed and the messages in the journal.
kj::Promise<void> UffdReader::publishOn() {
  return writeSide_.alone(markOn().attach(kj::defer([this] {
    if (!marking_.has_value()) return;
    // Dropped half way, which ends the restore: the gate opens, and the page table is not to be believed.
    segment_.header().state.store(shm::SegmentState::failed);
    marking_.reset();
  })));
}

kj::Promise<void> UffdReader::markOn() {
  return timer_.afterDelay(0 * kj::SECONDS).then([this]() -> kj::Promise<void> {
    if (!events_.publishSome(*marking_)) return markOn();
    std::optional<shm::ExclusiveGuard> guard(std::move(*marking_));
    marking_.reset();
    finishBatch(std::move(guard));
    return kj::READY_NOW;
  });
}

kj::Promise<std::optional<std::string>> UffdReader::recover() {
  auto recovery = kj::heap<Recovery>(io_, segment_, writeSide_, events_, failpoints_, turns_);
  auto recovered = recovery->run();
  return recovered.attach(kj::mv(recovery));
}

}  // namespace faultline::coordinator
