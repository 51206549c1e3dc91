// A restore that is over, in one line for the log.
#pragma once

#include <string>

#include "rpc/control.capnp.h"

namespace faultline::coordinator {

// How long it took, the pages by their last state, faults and their latency, and bytes by origin. Names neither the restore
// nor why it ended.
std::string summaryOf(rpc::EndedRestore::Reader ended);

}  // namespace faultline::coordinator
