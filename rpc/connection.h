// A Cap'n Proto connection over a Unix stream socket, fds included.
#pragma once

#include <capnp/capability.h>
#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/io.h>

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace faultline::rpc {

// Fds that one message may carry, on both ends of every connection of ours: 0 on the sender's end would drop
// outgoing fds as well (capnp 0.9.2, rpc-twoparty.c++, setFds). The limit is three for each layer
// of a source, and a few beside them.
inline constexpr unsigned MAX_FDS = 104;

// The client's end. Loop thread only; must be destroyed before the loop.
class Connection {
 public:
  // Takes a connected stream socket.
  Connection(kj::LowLevelAsyncIoProvider& provider, kj::AutoCloseFd socket);

  capnp::Capability::Client bootstrap() { return client_.bootstrap(); }
  // Resolves when the peer is gone; calls under way fail with DISCONNECTED.
  kj::Promise<void> onDisconnect() { return client_.onDisconnect(); }

 private:
  kj::Own<kj::AsyncCapabilityStream> stream_;
  capnp::TwoPartyClient client_;
};

// Serves `bootstrap` on connected stream sockets.
class Acceptor {
 public:
  explicit Acceptor(capnp::Capability::Client bootstrap) : server_(kj::mv(bootstrap)) {}

  void accept(kj::LowLevelAsyncIoProvider& provider, kj::AutoCloseFd socket);
  // Accepts on a listening socket for ever.
  kj::Promise<void> listen(kj::LowLevelAsyncIoProvider& provider, kj::AutoCloseFd listening);

 private:
  capnp::TwoPartyServer server_;
};

// A connected pair of stream sockets, close-on-exec.
std::pair<kj::AutoCloseFd, kj::AutoCloseFd> streamPair();

// Connects to a listening Unix stream socket. Throws DISCONNECTED naming the path and the reason.
kj::AutoCloseFd connectTo(const std::string& path);

// The users who may connect to a socket.
struct SocketAccess {
  std::string owner, group;   // name or number; empty: those of this process
  std::uint16_t mode = 0600;  // permission bits of its file
  bool operator==(const SocketAccess&) const = default;
};
struct SocketIds {
  std::optional<uid_t> owner;  // empty: not given
  std::optional<gid_t> group;
};
// Throws FAILED where there is no such user or group. Any thread; looks them up.
SocketIds idsOf(const SocketAccess& access);

// Makes a listening Unix stream socket at `path`; no process can connect before its file has this access. A socket file
// that no process listens on any more is replaced; one that is in use, or a file of another kind, is refused. Throws FAILED
// naming path, reason and way out, and leaves no file then. Any thread; looks users up.
kj::AutoCloseFd listenAt(const std::string& path, const SocketAccess& access = {});

}  // namespace faultline::rpc
