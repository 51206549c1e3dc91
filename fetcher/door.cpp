#include "fetcher/door.h"

#include <kj/debug.h>

#include <stdexcept>
#include <utility>

#include "rpc/fd.h"
#include "rpc/refusal.h"

namespace faultline::fetcher {

Door::Door(rpc::Connector::Client connector)
    : loop_(kj::getCurrentThreadExecutor().addRef()), connector_(kj::mv(connector)) {}

template <typename Call>
auto Door::inLoop(Call call) const {
  KJ_DEFER(const threads::Lock lock(done_));
  return loop_->executeSync(
      [&] { return kj::evalNow(call).attach(kj::defer([this] { const threads::Lock lock(done_); })); });
}

kj::AutoCloseFd Door::connect() const {
  try {
    return inLoop([this]() -> kj::Promise<kj::AutoCloseFd> {
      KJ_IF_MAYBE (connector, connector_)
        return connector->connectRequest().send().then(
            [](auto response) { return rpc::requireFd(response.getSocket(), "connection"); });
      return KJ_EXCEPTION(DISCONNECTED, "the source is served no more");
    });
  } catch (const kj::Exception& error) {
    throw std::runtime_error(rpc::refusalOf(error).message);
  }
}

template <typename Call>
void Door::tell(Call call) const {
  kj::runCatchingExceptions([&] {
    inLoop([&]() -> kj::Promise<void> {
      KJ_IF_MAYBE (connector, connector_) call(*connector).detach([](kj::Exception&&) {});
      return kj::READY_NOW;
    });
  });
}

void Door::tellLost(const std::string& why) const {
  tell([&](rpc::Connector::Client& connector) {
    auto request = connector.lostRequest();
    request.setWhy(why.c_str());
    return request.send().ignoreResult();
  });
}

void Door::tellMade() const {
  tell([](rpc::Connector::Client& connector) { return connector.madeRequest().send().ignoreResult(); });
}

}  // namespace faultline::fetcher
