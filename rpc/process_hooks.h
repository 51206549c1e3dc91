// The test hooks of one process over Cap'n Proto: its failpoints, armed from outside.
#pragma once

#include <kj/async-unix.h>
#include <kj/async.h>
#include <kj/function.h>

#include "failpoints/failpoints.h"
#include "rpc/hooks.capnp.h"

namespace faultline::rpc {

// Hands an armed point to the process that takes over when this one dies.
using ArmSuccessor = kj::Function<void(failpoints::Failpoints::Arm)>;

// The capability through which a process's failpoints are armed. `points` must outlive it. Loop thread
// only. Without `successor`, arming a successor fails.
ProcessHooks::Client makeProcessHooks(failpoints::Failpoints& points, kj::UnixEventPort& port,
                                      kj::Maybe<ArmSuccessor> successor = nullptr);

}  // namespace faultline::rpc
