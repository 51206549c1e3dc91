#include "rpc/connection.h"

#include <fcntl.h>
#include <grp.h>
#include <kj/debug.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

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

// Whether a process listens at this path, as the kernel lists it (proc_net(5), unix): for a socket that may not be
// connected to.
bool isListenedAt(const std::string& path) {
  constexpr unsigned long ACCEPTS = 0x10000;  // __SO_ACCEPTCON, include/linux/net.h
  std::ifstream list("/proc/net/unix");
  for (std::string line; std::getline(list, line);) {
    std::istringstream fields(line);
    std::string skipped, flags, name;
    fields >> skipped >> skipped >> skipped >> flags >> skipped >> skipped >> skipped >> std::ws;
    std::getline(fields, name);
    if (name == path && (std::strtoul(flags.c_str(), nullptr, 16) & ACCEPTS) != 0) return true;
  }
  return false;
}

// Gives `access` to the file that was just made at `path`.
void giveAccess(const std::string& path, const SocketAccess& access) {
  const SocketIds ids = idsOf(access);
  int opened;
  KJ_SYSCALL(opened = open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC), path.c_str());
  const kj::AutoCloseFd file(opened);
  struct stat status {};
  KJ_SYSCALL(fstat(opened, &status));
  KJ_REQUIRE(S_ISSOCK(status.st_mode), "another file has taken the socket's place", path.c_str());
  // Before it is another's: only its owner may. O_PATH takes no fchmod().
  const std::string same = "/proc/self/fd/" + std::to_string(opened);
  KJ_SYSCALL(chmod(same.c_str(), access.mode), "the socket's mode cannot be set", path.c_str());
  if (!ids.owner.has_value() && !ids.group.has_value()) return;
  KJ_SYSCALL(fchownat(opened, "", ids.owner.value_or(-1), ids.group.value_or(-1), AT_EMPTY_PATH),
             "the socket cannot be given to its owner: that takes CAP_CHOWN, or a group of one's own",
             path.c_str());
}

// Makes way for a new socket at `path`, or throws.
void removeStale(const std::string& path, const sockaddr_un& address) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return;
  KJ_REQUIRE(S_ISSOCK(status.st_mode),
             "the socket path exists and is no socket: choose another path or remove it", path.c_str());
  const int error = tryConnect(streamSocket().get(), address);
  // EACCES: the socket belongs to another user, say.
  const bool stale = error == ECONNREFUSED || (error == EACCES && !isListenedAt(path));
  KJ_REQUIRE(stale, "the socket path is in use by another server: stop that or choose another path",
             path.c_str());
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

SocketIds idsOf(const SocketAccess& access) {
  const auto number = [](const std::string& name) -> std::optional<std::uint32_t> {
    if (name.empty() || name.size() > 9 || name.find_first_not_of("0123456789") != std::string::npos)
      return std::nullopt;
    return static_cast<std::uint32_t>(std::stoul(name));
  };
  std::vector<char> room(1u << 16);
  SocketIds ids{number(access.owner), number(access.group)};
  if (!ids.owner.has_value() && !access.owner.empty()) {
    passwd entry{}, *found = nullptr;
    getpwnam_r(access.owner.c_str(), &entry, room.data(), room.size(), &found);
    KJ_REQUIRE(found != nullptr, "there is no such user", access.owner.c_str());
    ids.owner = entry.pw_uid;
  }
  if (!ids.group.has_value() && !access.group.empty()) {
    group entry{}, *found = nullptr;
    getgrnam_r(access.group.c_str(), &entry, room.data(), room.size(), &found);
    KJ_REQUIRE(found != nullptr, "there is no such group", access.group.c_str());
    ids.group = entry.gr_gid;
  }
  return ids;
}

// A socket that does not listen yet refuses everyone, whatever the mode of its file.
kj::AutoCloseFd listenAt(const std::string& path, const SocketAccess& access) {
  const sockaddr_un address = addressOf(path);
  removeStale(path, address);
  kj::AutoCloseFd fd = streamSocket();
  // The file's mode is the socket's (net/unix/af_unix.c, unix_bind).
  KJ_SYSCALL(fchmod(fd.get(), 0600));
  const int bound =
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? 0 : errno;
  KJ_REQUIRE(bound == 0, "cannot make the socket: is its directory there and writable?", path.c_str(),
             std::strerror(bound));
  bool done = false;
  KJ_DEFER(if (!done) unlink(path.c_str()));
  if (access != SocketAccess()) giveAccess(path, access);
  KJ_SYSCALL(listen(fd.get(), SOMAXCONN));
  done = true;
  return fd;
}

}  // namespace faultline::rpc
