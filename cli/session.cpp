#include "cli/session.h"

#include <kj/debug.h>
#include <signal.h>

#include "cli/errors.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds SUCCESSOR_PATIENCE{30'000};
constexpr milliseconds RETRY{10};
constexpr milliseconds INTERRUPT_PATIENCE{1000};

}  // namespace

void Interrupts::capture() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) kj::UnixEventPort::captureSignal(signal);
}

kj::ForkedPromise<void> Interrupts::listen() {
  return port_.onSignal(SIGINT)
      .exclusiveJoin(port_.onSignal(SIGTERM))
      .exclusiveJoin(port_.onSignal(SIGHUP))
      .ignoreResult()
      .fork();
}

Session::Session(const std::string& control, Interrupted interrupted, milliseconds patience)
    : client_(control),
      interrupts_(client_.io().unixEventPort),
      interrupted_(interrupted),
      patience_(patience) {}

kj::Promise<void> Session::guard() {
  auto interrupt = interrupts_.next();
  if (interrupted_ == Interrupted::command)
    interrupt = interrupt.then([this] { return after(INTERRUPT_PATIENCE); });
  return interrupt.then([] { rpc::refuse(rpc::Reason::FAILED, "interrupted"); })
      .exclusiveJoin(silent_ ? kj::Promise<void>(noAnswer()) : untilSilent());
}

// Some calls are answered when something has happened. Whether the server is there, another call tells.
kj::Promise<void> Session::untilSilent() {
  return after(patience_ / 3).then([this] {
    // A restore of this name is not there, and that is an answer; that the connection has gone each call says itself.
    auto answered =
        client_.coordinator().restoreRequest().send().ignoreResult().catch_([](kj::Exception&&) {});
    return answered.then([] { return true; })
        .exclusiveJoin(after(patience_ * 2 / 3).then([] { return false; }))
        .then([this](bool there) {
          if (there) return untilSilent();
          silent_ = true;
          kj::throwFatalException(noAnswer());
        });
  });
}

kj::Exception Session::noAnswer() {
  return KJ_EXCEPTION(OVERLOADED, "the server does not answer: is it stopped (SIGSTOP), or short of memory?");
}

rpc::Restore::Client Session::restore(const std::string& name) {
  auto request = coordinator().restoreRequest();
  request.setName(name.c_str());
  return wait(request.send()).getRestore();
}

kj::Promise<void> Session::after(milliseconds delay) {
  const auto ms = std::max<milliseconds::rep>(delay.count(), 0);
  return client_.io().provider->getTimer().afterDelay(static_cast<std::uint64_t>(ms) * kj::MILLISECONDS);
}

Session::Came Session::within(milliseconds limit, kj::Promise<void> promise, kj::Promise<void> interrupt) {
  return wait(promise.then([] { return Came::it; })
                  .exclusiveJoin(interrupt.then([] { return Came::interrupt; }))
                  .exclusiveJoin(after(limit).then([] { return Came::nothing; })));
}

void Session::awaitSuccessor(const std::function<bool()>& hopeless) {
  using Clock = std::chrono::steady_clock;
  const CommandError stopped(FAILED, "interrupted while the server was being replaced");
  auto deadline = Clock::now() + SUCCESSOR_PATIENCE;
  bool interrupted = false;
  // Whether it came in time. The first interrupt shortens the time of a command that sees to it.
  const auto came = [&](milliseconds limit, kj::Promise<void> promise) {
    const Came what = within(limit, kj::mv(promise), interrupted ? kj::NEVER_DONE : interrupts_.next());
    if (what == Came::interrupt) {
      if (interrupted_ == Interrupted::ends) throw stopped;
      interrupted = true;
      deadline = std::min(deadline, Clock::now() + INTERRUPT_PATIENCE);
    }
    return what == Came::it;
  };
  for (;;) {
    try {
      client_.reconnect();
      const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
      if (came(left, client_.coordinator().listRequest().send().ignoreResult())) return;
      if (Clock::now() >= deadline)
        kj::throwFatalException(
            KJ_EXCEPTION(DISCONNECTED, "the coordinator has gone and no successor answers"));
    } catch (const kj::Exception& error) {
      if (error.getType() != kj::Exception::Type::DISCONNECTED || Clock::now() >= deadline || hopeless()) {
        if (interrupted) throw stopped;
        throw;
      }
    }
    came(RETRY, kj::NEVER_DONE);
  }
}

}  // namespace faultline::cli
