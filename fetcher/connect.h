// A connection to the server of a source, made by a process of its own that does nothing else: it looks up names and makes
// sockets, which the process that talks to the server has no rights to.
#pragma once

#include "rpc/source_uri.h"

namespace faultline::fetcher {

// Connects, and sends the socket over `channel`, a Unix stream socket, or the reason why there is none (rpc/source_connector.h).
// Returns the process's exit code. Waits as long as the network does: the caller's parent has a limit.
int connectFor(const rpc::SourceUri& uri, int channel);

}  // namespace faultline::fetcher
