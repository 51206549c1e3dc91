// Listening sockets that the server makes at paths of the file system. Every function but wishFrom() may wait for a file
// system or for the host's list of users: not for the loop thread.
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "rpc/control.capnp.h"

namespace faultline::coordinator {

// A socket as it is asked for.
struct SocketWish {
  std::string path;
  std::string owner, group;  // names or numbers; empty: the server's
  mode_t mode = 0600;
};
// Refuses (badInput) what can never be made.
SocketWish wishFrom(rpc::SocketFile::Reader file);

// The file of a socket that was made, as far as it takes to know it again.
struct SocketPlace {
  std::string path;  // empty: none
  std::uint64_t device = 0, inode = 0;
};
// Removes the file, unless another lies there by now.
void removeSocket(const SocketPlace& place);

// A listening socket and its file, which goes with the object unless it is kept.
class PlacedSocket {
 public:
  // Owner, group and mode are set before anyone can connect. A socket that is there and that no process serves is
  // replaced. Refuses (nameTaken, badInput, forbidden) with a text that names the path.
  explicit PlacedSocket(const SocketWish& wish);
  ~PlacedSocket();
  PlacedSocket(const PlacedSocket&) = delete;

  const SocketPlace& place() const { return place_; }
  // The socket, for the process that accepts. To be called once.
  kj::AutoCloseFd take() { return kj::mv(fd_); }
  // Leaves the file where it is.
  void keep() { kept_ = true; }

 private:
  kj::AutoCloseFd fd_;
  SocketPlace place_;
  bool kept_ = false;
};

// The file is there, and no other in its place.
bool isThere(const SocketPlace& place);

// Whose a socket's file was, and who might connect.
struct SocketFormerAccess {
  SocketPlace place;
  uid_t owner;
  gid_t group;
  mode_t mode;
};
// Gives the file of a socket that is being served the access that is wished. Returns the former access, or nothing where
// there is no difference. Refuses as PlacedSocket's constructor.
std::optional<SocketFormerAccess> giveAccess(const SocketPlace& place, const SocketWish& wish);
// Gives it back as it was, as far as that can be.
void giveBack(const SocketFormerAccess& former);

// The path that a socket was bound to; empty: none. Does not wait.
std::string boundPath(int socket);

}  // namespace faultline::coordinator
