#include "rpc/connection.h"

#include <kj/debug.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace faultline::rpc {

namespace {

constexpr auto TAKE =
    kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP | kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC;

sockaddr_un addressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  KJ_REQUIRE(!path.empty(), "a socket needs a path");
  KJ_REQUIRE(path.size() < sizeof address.sun_path, "the socket path is too long: choose a shorter one",
             path.c_str(), path.size(), "at most", sizeof address.sun_path - 1);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

kj::AutoCloseFd streamSocket() {
  int fd;
  KJ_SYSCALL(fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return kj::AutoCloseFd(fd);
}

// 0, or the errno of a failed connect to `address`; EAGAIN where the queue of its server is full, and nothing
// is taken from it for so long.
int tryConnect(int fd, const sockaddr_un& address) {
  constexpr timeval QUEUE_PATIENCE{5, 0};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &QUEUE_PATIENCE, sizeof QUEUE_PATIENCE);
  const auto restored = kj::defer([fd] {
    constexpr timeval FOR_EVER{};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &FOR_EVER, sizeof FOR_EVER);
  });
  return connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? 0 : errno;
}

// Makes way for a new socket at `path`, or throws.
void removeStale(const std::string& path, const sockaddr_un& address) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return;
  KJ_REQUIRE(S_ISSOCK(status.st_mode),
             "the socket path exists and is no socket: choose another path or remove it", path.c_str());
  const int error = tryConnect(streamSocket().get(), address);
  KJ_REQUIRE(error == ECONNREFUSED,
             "the socket path is in use by another server: stop that or choose another path", path.c_str());
  unlink(path.c_str());
}

}  // namespace

Connection::Connection(kj::LowLevelAsyncIoProvider& provider, kj::AutoCloseFd socket)
    : stream_(provider.wrapUnixSocketFd(socket.release(), TAKE)), client_(*stream_, MAX_FDS) {}

std::pair<kj::AutoCloseFd, kj::AutoCloseFd> streamPair() {
  int ends[2];
  KJ_SYSCALL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
  return {kj::AutoCloseFd(ends[0]), kj::AutoCloseFd(ends[1])};
}

kj::AutoCloseFd connectTo(const std::string& path) {
  const sockaddr_un address = addressOf(path);
  kj::AutoCloseFd fd = streamSocket();
  const int error = tryConnect(fd.get(), address);
  if (error != 0)
    kj::throwFatalException(
        kj::Exception(kj::Exception::Type::DISCONNECTED, __FILE__, __LINE__,
                      kj::str("cannot reach a faultline server at ", path.c_str(), ": ", std::strerror(error),
                              error == ENOENT || error == ECONNREFUSED
                                  ? "; is `faultline serve` running with this control socket?"
                                  : "")));
  return fd;
}

kj::AutoCloseFd listenAt(const std::string& path) {
  const sockaddr_un address = addressOf(path);
  removeStale(path, address);
  kj::AutoCloseFd fd = streamSocket();
  // The mode of the file comes from the umask, so there is no moment in which others may connect.
  const mode_t before = umask(0177);
  const int bound =
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? 0 : errno;
  umask(before);
  KJ_REQUIRE(bound == 0, "cannot make the socket: is its directory there and writable?", path.c_str(),
             std::strerror(bound));
  KJ_SYSCALL(listen(fd.get(), SOMAXCONN));
  return fd;
}

}  // namespace faultline::rpc
