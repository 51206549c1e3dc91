// File descriptors over Cap'n Proto.
//
// Cap'n Proto 0.9.2 drops fds without a word where either end allows none, so every connection of ours allows
// MAX_FDS on both ends (rpc/connection.h), and code that expects an fd must check that it came: requireFd
// does.
#pragma once

#include <kj/async.h>
#include <kj/io.h>

#include "rpc/control.capnp.h"

namespace faultline::rpc {

// A capability that carries `fd`; closes it when the last reference is gone.
Fd::Client makeFd(kj::AutoCloseFd fd);
// A capability that carries a duplicate of `borrowed`.
Fd::Client makeFdFrom(int borrowed);

// A duplicate of the fd that came with `client`, close-on-exec. Throws FAILED naming `what` where none came.
kj::Promise<kj::AutoCloseFd> requireFd(Fd::Client client, kj::StringPtr what);
// A duplicate of the fd that came with `client`, close-on-exec; -1 where none came.
kj::Promise<kj::AutoCloseFd> optionalFd(Fd::Client client);

}  // namespace faultline::rpc
