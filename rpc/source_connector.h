// Connections to the servers of sources, as a fetcher gets them: by Connector of fetcher.capnp, which has each made by a process
// of its own (`faultline-fetcher --connect URI`). A fetcher that was taken over can thus connect to no other server than its
// sources', and who holds restores parses no name server's answers.
#pragma once

#include <kj/async-io.h>

#include <functional>
#include <string>

#include "rpc/fetcher.capnp.h"

namespace faultline::rpc {

// Called as fetcher.capnp says, as often as a fetcher likes; null: it is not to be told. `why`: one line of plain text.
struct ConnectionNews {
  std::function<void(const std::string& why)> lost{};
  std::function<void()> made{};
};

// `uri`: that of the source. `program`: of faultline-fetcher, open (O_PATH), borrowed; -1: the one beside us. Loop thread; `io`, and
// what `news` uses, must outlive it.
Connector::Client makeConnector(kj::AsyncIoContext& io, const std::string& uri, int program,
                                ConnectionNews news = {});

// --- the other end, in that process ---
// Sends a connected socket over `channel`; or the reason why there is none. A failure is ignored: the other end has a limit.
void sendConnection(int channel, int socket);
void sendNoConnection(int channel, const std::string& why);

}  // namespace faultline::rpc
