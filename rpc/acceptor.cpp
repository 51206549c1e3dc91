// The server's half of rpc/connection.h.
#include <kj/debug.h>
#include <spdlog/spdlog.h>

#include "rpc/connection.h"

namespace faultline::rpc {

namespace {

constexpr auto TAKE =
    kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP | kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC;
constexpr kj::Duration ACCEPT_RETRY = 200 * kj::MILLISECONDS;

// `failed`: the last time, too. KJ's own loop ends with the first error, and leaves the socket as it was.
kj::Promise<void> listenOn(capnp::TwoPartyServer& server, kj::ConnectionReceiver& receiver, kj::Timer& timer,
                           bool failed) {
  const auto began = timer.now();
  // Its first accept() throws, those after it fail their promise.
  return kj::evalNow([&] { return server.listenCapStreamReceiver(receiver, MAX_FDS); })
      .catch_([&server, &receiver, &timer, failed, began](kj::Exception&& error) {
        // A loop that has run for a while has accepted meanwhile: this is another failure.
        const bool again = failed && timer.now() - began < ACCEPT_RETRY;
        if (!again) spdlog::error("the control socket: {}; trying again", error.getDescription().cStr());
        return timer.afterDelay(ACCEPT_RETRY).then([&server, &receiver, &timer] {
          return listenOn(server, receiver, timer, true);
        });
      });
}

}  // namespace

void Acceptor::accept(kj::LowLevelAsyncIoProvider& provider, kj::AutoCloseFd socket) {
  server_.accept(provider.wrapUnixSocketFd(socket.release(), TAKE), MAX_FDS);
}

kj::Promise<void> Acceptor::listen(kj::LowLevelAsyncIoProvider& provider, kj::AutoCloseFd listening) {
  auto receiver = provider.wrapListenSocketFd(listening.release(), TAKE);
  auto promise = listenOn(server_, *receiver, provider.getTimer(), false);
  return promise.attach(kj::mv(receiver));
}

}  // namespace faultline::rpc
