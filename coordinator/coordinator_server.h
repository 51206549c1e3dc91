// The control interface (rpc/control.capnp), served.
#pragma once

#include <cstdint>

#include "rpc/control.capnp.h"
#include "rpc/shard.capnp.h"

namespace faultline::coordinator {

class Service;

// `service` must outlive the capabilities. Loop thread only.
rpc::Coordinator::Client makeCoordinatorServer(Service& service);

// The capability by which shard `index` reports to the coordinator unasked.
rpc::ShardEvents::Client makeShardEvents(Service& service, std::uint32_t index);

}  // namespace faultline::coordinator
