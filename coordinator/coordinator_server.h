// The control interface (rpc/control.capnp), served.
#pragma once

#include <cstdint>

#include "rpc/control.capnp.h"
#include "rpc/shard.capnp.h"

namespace faultline::coordinator {

class Service;

// `service` must outlive the capabilities. Loop thread only.
rpc::Coordinator::Client makeCoordinatorServer(Service& service);

// What shard `index` tells us without being asked.
rpc::ShardEvents::Client makeShardEvents(Service& service, std::uint32_t index);

}  // namespace faultline::coordinator
