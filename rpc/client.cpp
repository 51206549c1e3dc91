#include "rpc/client.h"

namespace faultline::rpc {

ControlClient::ControlClient(const std::string& socketPath)
    : io_(kj::setupAsyncIo()),
      connection_(*io_.lowLevelProvider, connectTo(socketPath)),
      coordinator_(connection_.bootstrap().castAs<Coordinator>()) {}

ControlClient::~ControlClient() noexcept(false) = default;

Restore::Client ControlClient::restore(const std::string& name) {
  auto request = coordinator_.restoreRequest();
  request.setName(name);
  return wait(request.send()).getRestore();
}

}  // namespace faultline::rpc
