// The test hooks of rpc/hooks.capnp; only in a server started with --test-hooks.
#pragma once

#include "rpc/hooks.capnp.h"

namespace faultline::coordinator {

class Service;

rpc::TestHooks::Client makeTestHooks(Service& service);

}  // namespace faultline::coordinator
