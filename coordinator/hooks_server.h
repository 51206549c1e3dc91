// The test hooks of rpc/hooks.capnp; only in a server started with --test-hooks.
#pragma once

#include "rpc/hooks.capnp.h"

namespace faultline::coordinator {

class Service;

// The hooks of all restores and processes of `service`, which must outlive the capability.
rpc::TestHooks::Client makeTestHooks(Service& service);

}  // namespace faultline::coordinator
