#include "coordinator/write_side.h"

#include <kj/debug.h>
#include <spdlog/spdlog.h>

#include <string>
#include <utility>

#include "process/clock.h"
#include "shmtracker/error.h"

namespace faultline::coordinator {

using process::nowNs;
using shm::count;

namespace {

// How long a busy slot is waited for before the loop sees to its other work, and how soon it is looked at
// again.
constexpr std::chrono::microseconds SLOT_PATIENCE{200};
constexpr kj::Duration SLOT_RETRY = 500 * kj::MICROSECONDS;

}  // namespace

WriteSide::WriteSide(kj::Timer& timer, shm::Segment& segment, const Options& options, Fence fence)
    : timer_(timer), segment_(segment), options_(options), fence_(std::move(fence)) {}

WriteSide::~WriteSide() {
  segment_.lock().open();
}

kj::Promise<void> WriteSide::later() const {
  return timer_.afterDelay(SLOT_RETRY);
}

void WriteSide::close() {
  segment_.lock().close();
  closedAt_ = nowNs();
  next_ = 0;
}

std::optional<shm::ExclusiveGuard> WriteSide::tryDrain() {
  auto guard = segment_.lock().drainFrom(next_, segment_.activeSlots(), SLOT_PATIENCE, [this](unsigned slot) {
    count(segment_.counters().slotsRecovered);
    spdlog::debug("restore {}: slot {} was held by a thread that died", segment_.name(), slot);
  });
  if (guard.has_value()) segment_.counters().drain.record(nowNs() - closedAt_);
  return guard;
}

kj::Promise<shm::ExclusiveGuard> WriteSide::drained() {
  return alone(kj::evalNow([this] { return drainOn(); }));
}

kj::Promise<shm::ExclusiveGuard> WriteSide::drainOn() {
  if (auto guard = tryDrain()) return std::move(*guard);
  const std::uint64_t deadline = closedAt_ + std::chrono::nanoseconds(options_.lockDeadline).count();
  if (fencing_ && nowNs() >= deadline && fence_(next_)) {
    count(segment_.counters().fences);
    // The kernel has given back what the dead held. To kill one successor after the other for a word that
    // says otherwise would cost every restore its shards.
    const unsigned fenced = next_;
    if (auto guard = tryDrain()) return std::move(*guard);
    if (next_ == fenced) lockIsDamaged(fenced);
  }
  return later().then([this] { return drainOn(); });
}

void WriteSide::lockIsDamaged(unsigned slot) {
  damaged_ = true;
  throw shm::SegmentError("slot " + std::to_string(slot) + " of the lock is held, and its shard is dead");
}

void WriteSide::open(shm::ExclusiveGuard guard) {
  guard.release();
  segment_.counters().closed.record(nowNs() - closedAt_);
}

kj::Promise<void> WriteSide::exclusively(std::function<void(const shm::ExclusiveGuard&)> action) {
  if (damaged_) return KJ_EXCEPTION(FAILED, "the lock is damaged");
  if (taken_)
    return later().then(
        [this, action = std::move(action)]() mutable { return exclusively(std::move(action)); });
  close();
  return drained().then([action = std::move(action)](shm::ExclusiveGuard guard) { action(guard); },
                        [this](kj::Exception&& e) {
                          segment_.lock().open();  // nothing was read
                          kj::throwFatalException(kj::mv(e));
                        });
}

}  // namespace faultline::coordinator
