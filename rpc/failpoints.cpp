#include "rpc/failpoints.h"

#include <kj/debug.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "rpc/fd.h"

namespace faultline::rpc {

namespace {

constexpr std::array<std::string_view, 20> NAMES = {
    "beforeStage",   "coldRead",      "beforeReadLock",    "beforeCopy",    "afterCopy",
    "afterStore",    "gateClosed",    "beforeRead",        "afterRead",     "midMark",
    "beforeOpen",    "beforeHandout", "handshakeAccepted", "handshakeRead", "restoreStored",
    "shardStarting", "adoptClaimed",  "adoptDrained",      "adoptReplayed", "adoptOpened"};
static_assert(NAMES.size() == static_cast<std::size_t>(Point::adoptOpened) + 1);

void signalEvent(int fd) {
  const std::uint64_t one = 1;
  if (fd < 0) return;
  KJ_SYSCALL(write(fd, &one, sizeof one));
}

// Waits until somebody signals `fd`; for ever where it is -1.
void waitForEvent(int fd) {
  std::uint64_t value;
  while (fd < 0) pause();
  KJ_SYSCALL(read(fd, &value, sizeof value));
}

kj::AutoCloseFd newEvent(int flags) {
  int fd;
  KJ_SYSCALL(fd = eventfd(0, EFD_CLOEXEC | flags));
  return kj::AutoCloseFd(fd);
}

class BarrierServer final : public Barrier::Server {
 public:
  BarrierServer(Failpoints& failpoints, kj::UnixEventPort& port, std::uint64_t number,
                kj::AutoCloseFd reached, kj::AutoCloseFd resume)
      : failpoints_(failpoints),
        number_(number),
        reached_(kj::mv(reached)),
        resume_(kj::mv(resume)),
        observer_(port, reached_.get(), kj::UnixEventPort::FdObserver::OBSERVE_READ),
        held_(waitUntilReached().fork()) {}
  ~BarrierServer() noexcept(false) { let(); }

  kj::Promise<void> waitHeld(WaitHeldContext) override { return held_.addBranch(); }
  kj::Promise<void> release(ReleaseContext) override {
    let();
    return kj::READY_NOW;
  }

 private:
  kj::Promise<void> waitUntilReached() {
    std::uint64_t value;
    if (read(reached_.get(), &value, sizeof value) == sizeof value) return kj::READY_NOW;
    return observer_.whenBecomesReadable().then([this]() { return waitUntilReached(); });
  }
  void let() {
    failpoints_.disarm(number_);
    signalEvent(resume_.get());
  }

  Failpoints& failpoints_;
  std::uint64_t number_;
  kj::AutoCloseFd reached_;
  kj::AutoCloseFd resume_;
  kj::UnixEventPort::FdObserver observer_;
  kj::ForkedPromise<void> held_;
};

class ProcessHooksServer final : public ProcessHooks::Server {
 public:
  ProcessHooksServer(Failpoints& failpoints, kj::UnixEventPort& port, kj::Maybe<ArmSuccessor> successor)
      : failpoints_(failpoints), port_(port), successor_(kj::mv(successor)) {}

  kj::Promise<void> arm(ArmContext context) override {
    auto params = context.getParams();
    const kj::StringPtr name = params.getPoint();
    const auto point = pointNamed({name.begin(), name.size()});
    KJ_REQUIRE(point.has_value(), "no failpoint has this name", name);
    KJ_REQUIRE(params.getAction() != Action::FAIL || *point == Point::beforeStage,
               "only a read of the source can fail: arm beforeStage", name);
    KJ_REQUIRE(params.getAction() == Action::PARK || *point != Point::coldRead,
               "a read under way can only be held: park it", name);
    auto noFd = []() -> kj::Promise<kj::AutoCloseFd> { return kj::AutoCloseFd(); };
    auto reached = params.hasReached() ? optionalFd(params.getReached()) : noFd();
    auto resume = params.hasResume() ? optionalFd(params.getResume()) : noFd();
    return reached.then([this, context, point, resume = kj::mv(resume)](kj::AutoCloseFd reachedFd) mutable {
      return resume.then(
          [this, context, point, reachedFd = kj::mv(reachedFd)](kj::AutoCloseFd resumeFd) mutable {
            auto params = context.getParams();
            if (params.getSuccessor()) {
              auto& armSuccessor = KJ_REQUIRE_NONNULL(successor_, "this process has no successor to arm");
              armSuccessor({*point, params.getAction(), params.getPage(), params.getSkip(), kj::mv(reachedFd),
                            kj::AutoCloseFd(), kj::mv(resumeFd)});
              return;
            }
            kj::AutoCloseFd held = newEvent(EFD_NONBLOCK);
            kj::AutoCloseFd go = resumeFd.get() >= 0 ? kj::mv(resumeFd) : newEvent(0);
            const std::uint64_t number =
                failpoints_.arm({*point, params.getAction(), params.getPage(), params.getSkip(),
                                 kj::mv(reachedFd), duplicate(held.get()), duplicate(go.get())});
            context.getResults().setBarrier(
                kj::heap<BarrierServer>(failpoints_, port_, number, kj::mv(held), kj::mv(go)));
          });
    });
  }

 private:
  Failpoints& failpoints_;
  kj::UnixEventPort& port_;
  kj::Maybe<ArmSuccessor> successor_;
};

}  // namespace

std::optional<Point> pointNamed(std::string_view name) {
  const auto found = std::find(NAMES.begin(), NAMES.end(), name);
  if (found == NAMES.end()) return std::nullopt;
  return static_cast<Point>(found - NAMES.begin());
}

std::string_view nameOf(Point point) {
  return NAMES[static_cast<std::size_t>(point)];
}

std::uint64_t Failpoints::arm(Arm arm) {
  std::lock_guard lock(mutex_);
  armed_.push_back({++last_, std::move(arm)});
  armedCount_.store(static_cast<std::uint32_t>(armed_.size()));
  return last_;
}

void Failpoints::disarm(std::uint64_t number) {
  std::lock_guard lock(mutex_);
  std::erase_if(armed_, [number](const Armed& a) { return a.number == number; });
  armedCount_.store(static_cast<std::uint32_t>(armed_.size()));
}

std::vector<Failpoints::Armed>::iterator Failpoints::findArmed(Point point, std::uint64_t page) {
  return std::find_if(armed_.begin(), armed_.end(), [&](const Armed& a) {
    return a.arm.point == point && (a.arm.page == ANY_PAGE || a.arm.page == page);
  });
}

bool Failpoints::awaitsArmed(Point point, std::uint64_t page) {
  std::lock_guard lock(mutex_);
  return findArmed(point, page) != armed_.end();
}

std::optional<Failpoints::Arm> Failpoints::arrive(Point point, std::uint64_t page) {
  Arm arm;
  {
    std::lock_guard lock(mutex_);
    const auto found = findArmed(point, page);
    if (found == armed_.end()) return std::nullopt;
    if (found->arm.skip > 0) {
      found->arm.skip--;
      return std::nullopt;
    }
    arm = std::move(found->arm);
    armed_.erase(found);
    armedCount_.store(static_cast<std::uint32_t>(armed_.size()));
  }
  signalEvent(arm.reached.get());
  signalEvent(arm.reached2.get());
  return arm;
}

kj::AutoCloseFd Failpoints::holdArmed(Point point, std::uint64_t page) {
  auto arm = arrive(point, page);
  return arm.has_value() ? kj::mv(arm->resume) : kj::AutoCloseFd();
}

void Failpoints::hitArmed(Point point, std::uint64_t page) {
  const auto arm = arrive(point, page);
  if (!arm.has_value()) return;
  switch (arm->action) {
    case Action::PARK:
      waitForEvent(arm->resume.get());
      break;
    case Action::KILL:
      kill(getpid(), SIGKILL);
      break;
    case Action::STOP:
      raise(SIGSTOP);  // to this thread: sent to the process, it might stop somewhat behind the place
      break;
    case Action::FAIL:
      failure_ = EIO;
      break;
  }
}

ProcessHooks::Client makeProcessHooks(Failpoints& failpoints, kj::UnixEventPort& port,
                                      kj::Maybe<ArmSuccessor> successor) {
  return kj::heap<ProcessHooksServer>(failpoints, port, kj::mv(successor));
}

}  // namespace faultline::rpc
