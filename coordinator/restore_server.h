// The Restore and Prefault capabilities of rpc/control.capnp.
#pragma once

#include <memory>

#include "coordinator/restore.h"
#include "rpc/control.capnp.h"

namespace faultline::coordinator {

// Holds the restore weakly: once that is over, every call but waitEnded says so. Loop thread only.
rpc::Restore::Client makeRestoreServer(const std::shared_ptr<Restore>& restore);

}  // namespace faultline::coordinator
