#include "rpc/process_hooks.h"

#include <kj/debug.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "process/duplicate.h"
#include "rpc/fd.h"

namespace faultline::rpc {

namespace {

void signalEvent(int fd) {
  const std::uint64_t one = 1;
  KJ_SYSCALL(write(fd, &one, sizeof one));
}

kj::AutoCloseFd newEvent(int flags) {
  int fd;
  KJ_SYSCALL(fd = eventfd(0, EFD_CLOEXEC | flags));
  return kj::AutoCloseFd(fd);
}

failpoints::Action actionOf(Action action) {
  switch (action) {
    case Action::PARK:
      return failpoints::Action::park;
    case Action::KILL:
      return failpoints::Action::kill;
    case Action::STOP:
      return failpoints::Action::stop;
    case Action::PASS:
      return failpoints::Action::pass;
  }
  KJ_FAIL_REQUIRE("no failpoint has this action", static_cast<unsigned>(action));
}

class BarrierServer final : public Barrier::Server {
 public:
  BarrierServer(failpoints::Failpoints& points, kj::UnixEventPort& port, std::uint64_t number,
                kj::AutoCloseFd reached, kj::AutoCloseFd resume)
      : points_(points),
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
    points_.disarm(number_);
    signalEvent(resume_.get());
  }

  failpoints::Failpoints& points_;
  std::uint64_t number_;
  kj::AutoCloseFd reached_;
  kj::AutoCloseFd resume_;
  kj::UnixEventPort::FdObserver observer_;
  kj::ForkedPromise<void> held_;
};

class ProcessHooksServer final : public ProcessHooks::Server {
 public:
  ProcessHooksServer(failpoints::Failpoints& points, kj::UnixEventPort& port,
                     kj::Maybe<ArmSuccessor> successor)
      : points_(points), port_(port), successor_(kj::mv(successor)) {}

  kj::Promise<void> arm(ArmContext context) override {
    auto params = context.getParams();
    const kj::StringPtr name = params.getPoint();
    const auto point = failpoints::pointNamed({name.begin(), name.size()});
    KJ_REQUIRE(point.has_value(), "no failpoint has this name", name);
    KJ_REQUIRE(params.getAction() == Action::PARK ||
                   (*point != failpoints::Point::coldRead && *point != failpoints::Point::adoptChecking),
               "work under way can only be held: park it", name);
    auto noFd = []() -> kj::Promise<kj::AutoCloseFd> { return kj::AutoCloseFd(); };
    auto reached = params.hasReached() ? optionalFd(params.getReached()) : noFd();
    auto resume = params.hasResume() ? optionalFd(params.getResume()) : noFd();
    return reached.then([this, context, point, resume = kj::mv(resume)](kj::AutoCloseFd reachedFd) mutable {
      return resume.then([this, context, point,
                          reachedFd = kj::mv(reachedFd)](kj::AutoCloseFd resumeFd) mutable {
        auto params = context.getParams();
        if (params.getSuccessor()) {
          auto& armSuccessor = KJ_REQUIRE_NONNULL(successor_, "this process has no successor to arm");
          armSuccessor({*point, actionOf(params.getAction()), params.getPage(), params.getSkip(),
                        kj::mv(reachedFd), kj::AutoCloseFd(), kj::mv(resumeFd)});
          return;
        }
        kj::AutoCloseFd held = newEvent(EFD_NONBLOCK);
        kj::AutoCloseFd go = resumeFd.get() >= 0 ? kj::mv(resumeFd) : newEvent(0);
        const std::uint64_t number =
            points_.arm({*point, actionOf(params.getAction()), params.getPage(), params.getSkip(),
                         kj::mv(reachedFd), process::duplicate(held.get()), process::duplicate(go.get())});
        context.getResults().setBarrier(
            kj::heap<BarrierServer>(points_, port_, number, kj::mv(held), kj::mv(go)));
      });
    });
  }

 private:
  failpoints::Failpoints& points_;
  kj::UnixEventPort& port_;
  kj::Maybe<ArmSuccessor> successor_;
};

}  // namespace

ProcessHooks::Client makeProcessHooks(failpoints::Failpoints& points, kj::UnixEventPort& port,
                                      kj::Maybe<ArmSuccessor> successor) {
  return kj::heap<ProcessHooksServer>(points, port, kj::mv(successor));
}

}  // namespace faultline::rpc
