#include "rpc/client.h"

namespace faultline::rpc {

ControlClient::ControlClient(const std::string& socketPath)
    : io_(kj::setupAsyncIo()),
      path_(socketPath),
      connection_(kj::heap<Connection>(*io_.lowLevelProvider, connectTo(path_))),
      coordinator_(connection_->bootstrap().castAs<Coordinator>()) {}

void ControlClient::reconnect() {
  auto fresh = kj::heap<Connection>(*io_.lowLevelProvider, connectTo(path_));
  coordinator_ = fresh->bootstrap().castAs<Coordinator>();
  connection_ = kj::mv(fresh);
}

ControlClient::~ControlClient() noexcept(false) = default;

Restore::Client ControlClient::restore(const std::string& name) {
  auto request = coordinator_.restoreRequest();
  request.setName(name);
  return wait(request.send()).getRestore();
}

}  // namespace faultline::rpc
