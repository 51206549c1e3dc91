// A Cap'n Proto server whose every failure has a reason and a text for people (rpc/refusal.h).
#pragma once

#include <capnp/capability.h>
#include <kj/debug.h>

#include "rpc/refusal.h"

namespace faultline::rpc {

// Base class of a server of `Interface`. An exception of a method, or of its promise, goes out with the
// reason `failed` unless it has another.
template <typename Interface>
class Answering : public Interface::Server {
 public:
  capnp::Capability::Server::DispatchCallResult dispatchCall(
      std::uint64_t interfaceId, std::uint16_t methodId,
      capnp::CallContext<capnp::AnyPointer, capnp::AnyPointer> context) override {
    kj::Maybe<capnp::Capability::Server::DispatchCallResult> answer;
    KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] {
                   answer = Interface::Server::dispatchCall(interfaceId, methodId, context);
                 }))
      return {because(Reason::FAILED, kj::mv(*exception)), false};
    auto& given = KJ_ASSERT_NONNULL(answer);
    return {given.promise.catch_([](kj::Exception&& exception) -> kj::Promise<void> {
              return because(Reason::FAILED, kj::mv(exception));
            }),
            given.isStreaming};
  }
};

}  // namespace faultline::rpc
