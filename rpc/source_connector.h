// Connections to the servers of sources, as a fetcher gets them: by Connector of fetcher.capnp, which has each made by a process
// of its own (`faultline-fetcher --connect URI`). So a fetcher that was taken over can connect to no other server than its sources',
// and who holds restores parses no name server's answers.
#pragma once

#include <kj/async-io.h>

#include <string>

#include "rpc/fetcher.capnp.h"

namespace faultline::rpc {

// `uri`: that of the source. `program`: of faultline-fetcher, open (O_PATH), borrowed; -1: the one beside us. Loop thread; `io` must
// outlive it.
Connector::Client makeConnector(kj::AsyncIoContext& io, const std::string& uri, int program);

// --- the other end, in that process ---
// Sends a connected socket over `channel`; or the reason why there is none. What cannot be sent is lost: the other end has a limit.
void sendConnection(int channel, int socket);
void sendNoConnection(int channel, const std::string& why);

}  // namespace faultline::rpc
