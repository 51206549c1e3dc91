#include "coordinator/recovery.h"

#include <linux/userfaultfd.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "coordinator/held_work.h"
#include "failpoints/mistakes.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

using failpoints::made;
using failpoints::Mistake;
using failpoints::Point;
using shm::count;

namespace {
// Pages that are checked in one go, some 100 us; while a failpoint is armed, a word of them.
constexpr std::uint64_t CHECK_STEP = 1u << 21, SMALL_STEP = 64;
}  // namespace

Recovery::Recovery(kj::AsyncIoContext& io, shm::Segment& segment, WriteSide& writeSide,
                   EventPublisher& events, failpoints::Failpoints& failpoints, ReadingTurns& turns)
    : io_(io),
      segment_(segment),
      writeSide_(writeSide),
      events_(events),
      failpoints_(failpoints),
      turns_(turns) {}

Recovery::~Recovery() {
  // Before the gate opens, so that no commit section believes what is not published.
  if (!over_) segment_.header().state.store(shm::SegmentState::failed);
}

// A stage takes the write side in the same turn of the loop in which the stage before it gives it back.
kj::Promise<Recovery::Verdict> Recovery::run() {
  return writeSide_.alone(kj::evalNow([this] { return lockOn(); }))
      .then([this] { return drained(); })
      .then([this](shm::ExclusiveGuard guard) {
        guard_.emplace(std::move(guard));
        failpoints_.hit(Point::adoptDrained);
        return writeSide_.alone(kj::evalNow([this] {
                                  return replay();
                                }).catch_([this](kj::Exception&& e) {
                                    verdict_ = rpc::refusalOf(e).message;
                                  }).then([this] { return open(); }));
      });
}

kj::Promise<void> Recovery::lockOn() {
  if (segment_.lockSome()) return kj::READY_NOW;
  return turns_.step(io_.provider->getTimer()).then([this] { return lockOn(); });
}

// The gate stays closed until the sections of before have ended, and from then on until all is checked. Not to is a known
// mistake of each.
kj::Promise<shm::ExclusiveGuard> Recovery::drained() {
  if (made(Mistake::openBeforeReplay) || made(Mistake::skipDrain)) segment_.lock().open();
  writeSide_.close();
  if (made(Mistake::skipDrain)) {
    unsigned none = 0;
    return std::move(*segment_.lock().drainFrom(none, 0, {}, {}));
  }
  return writeSide_.drained().then([this](shm::ExclusiveGuard guard) {
    if (made(Mistake::openBeforeReplay)) segment_.lock().open();
    return guard;
  });
}

kj::Promise<void> Recovery::replay() {
  if (!segment_.servable()) {
    verdict_ = "its segment says that it had failed, or makes no sense";
    return kj::READY_NOW;
  }
  for (const uffd_msg& message : segment_.journal().all()) {
    if (message.event == 0 || message.event == UFFD_EVENT_PAGEFAULT) continue;
    if (!events_.add(message)) {
      verdict_ = "the journal holds an event that cannot be: " + std::to_string(message.event);
      return kj::READY_NOW;
    }
    count(segment_.counters().replayed);
  }
  events_.complete();
  return markOn();
}

kj::Promise<void> Recovery::markOn() {
  if (!events_.publishSome(*guard_))
    return turns_.step(io_.provider->getTimer()).then([this] { return markOn(); });
  failpoints_.hit(Point::adoptReplayed);
  return checkOn();
}

kj::Promise<void> Recovery::checkOn() {
  shm::PageTable& pages = segment_.pages();
  for (std::uint64_t left = CHECK_STEP; next_ < pages.pageCount();) {
    if (left == 0) return turns_.step(io_.provider->getTimer()).then([this] { return checkOn(); });
    auto resume = failpoints_.hold(Point::adoptChecking, next_);
    if (resume.get() >= 0)
      return whenReleased(io_.unixEventPort, kj::mv(resume)).then([this] { return checkOn(); });
    const std::uint64_t most = failpoints_.armed() ? SMALL_STEP : left;
    const shm::PageRange step{next_, std::min(most, pages.pageCount() - next_)};
    found_.add(pages.check(*guard_, step));
    next_ = step.end();
    left -= std::min(left, step.count);
  }
  checked();
  return kj::READY_NOW;
}

void Recovery::checked() {
  if (found_.repaired > 0)
    spdlog::warn("restore {}: the state of {} pages was repaired from its copy", segment_.name(),
                 found_.repaired);
  if (found_.doubtful > 0)
    verdict_ = "it is unknown whether " + std::to_string(found_.doubtful) +
               " pages were given up, the first is " + std::to_string(found_.firstDoubtful);
  else
    segment_.journal().clear(segment_.journal().capacity());
}

// Says what is doubtful before the gate opens, so that no commit section believes it.
Recovery::Verdict Recovery::open() {
  if (verdict_.has_value()) segment_.header().state.store(shm::SegmentState::failed);
  over_ = true;
  guard_.reset();
  if (!verdict_.has_value()) failpoints_.hit(Point::adoptOpened);
  return verdict_;
}

}  // namespace faultline::coordinator
