#include "cli/session.h"

#include <kj/debug.h>
#include <signal.h>

#include "cli/errors.h"

namespace faultline::cli {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds SUCCESSOR_PATIENCE{30'000};
constexpr milliseconds RETRY{10};

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

kj::Promise<void> Session::after(milliseconds delay) {
  const auto ms = std::max<milliseconds::rep>(delay.count(), 0);
  return client_.io().provider->getTimer().afterDelay(static_cast<std::uint64_t>(ms) * kj::MILLISECONDS);
}

bool Session::within(milliseconds limit, kj::Promise<void> promise) {
  enum class Came { it, interrupt, nothing };
  const Came came = wait(promise.then([] { return Came::it; })
                             .exclusiveJoin(interrupts_.next().then([] { return Came::interrupt; }))
                             .exclusiveJoin(after(limit).then([] { return Came::nothing; })));
  if (came == Came::interrupt) throw CommandError(FAILED, "interrupted while the server was being replaced");
  return came == Came::it;
}

void Session::awaitSuccessor(const std::function<bool()>& hopeless) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + SUCCESSOR_PATIENCE;
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
    try {
      client_.reconnect();
      if (within(left, client_.coordinator().listRequest().send().ignoreResult())) return;
      kj::throwFatalException(
          KJ_EXCEPTION(DISCONNECTED, "the coordinator has gone and no successor answers"));
    } catch (const kj::Exception& error) {
      if (error.getType() != kj::Exception::Type::DISCONNECTED || Clock::now() >= deadline || hopeless())
        throw;
    }
    within(RETRY, kj::NEVER_DONE);
  }
}

}  // namespace faultline::cli
