// How a restore is served: rpc::RestorePolicy as the coordinator has it.
//
// A new flag is added in four places: rpc/control.capnp, shmtracker/layout (Policy and layoutFacts()), policyFrom() and
// fill() of restore_policy.cpp, and cli/policy_options (docs/changing.md).
#pragma once

#include "coordinator/working_set.h"
#include "rpc/control.capnp.h"
#include "shmtracker/layout.h"

namespace faultline::coordinator {

struct RestorePolicy {
  shm::Policy flags{};    // kept in the segment, for shards and for a successor
  WorkingSet workingSet;  // populated before everything else
  bool operator==(const RestorePolicy&) const = default;
};

// `source`: fd of the memory file. Throws (badInput) where the working set does not fit it, or where a value
// is not known.
RestorePolicy policyFrom(rpc::RestorePolicy::Reader reader, int source);
void fill(rpc::RestorePolicy::Builder to, const RestorePolicy& policy);
// Fills the policy without a working set.
void fill(rpc::RestorePolicy::Builder to, const shm::Policy& flags);

}  // namespace faultline::coordinator
