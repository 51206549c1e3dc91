// Listeners of a running service, for people and programs.
#pragma once

#include <nlohmann/json.hpp>

#include "rpc/control.capnp.h"

namespace faultline::cli {

// "command line", "configuration", "call".
const char* originName(rpc::ListenerOrigin origin);
// An array, by name.
nlohmann::json listenersJson(capnp::List<rpc::ListenerInfo>::Reader listeners);

}  // namespace faultline::cli
