#include "fetcher/connect.h"

#include <kj/io.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <variant>

#include "rpc/source_connector.h"

namespace faultline::fetcher {

namespace {

constexpr int ADDRESS_MS = 2000;  // for each address that a name has
// A connection ends with data that is not acknowledged for so long, or after so many looks at an idle peer in vain.
constexpr unsigned UNACKNOWLEDGED_MS = 10'000;
constexpr int IDLE_S = 10, LOOK_S = 5, LOOKS = 3;

kj::AutoCloseFd socketOf(int family) {
  kj::AutoCloseFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) throw std::runtime_error(std::string("no socket can be made: ") + std::strerror(errno));
  return fd;
}

// 0, or errno.
int connected(int fd, const sockaddr* address, socklen_t size) {
  if (connect(fd, address, size) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd waiting{fd, POLLOUT, 0};
  if (poll(&waiting, 1, ADDRESS_MS) != 1) return ETIMEDOUT;
  int error = 0;
  socklen_t length = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

kj::AutoCloseFd toSocket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  kj::AutoCloseFd fd = socketOf(AF_UNIX);
  if (const int error = connected(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address))
    throw std::runtime_error("socket " + path + ": " + std::strerror(error) + "; is the server running?");
  return fd;
}

void watch(int fd) {
  const auto set = [fd](int level, int option, auto value) {
    setsockopt(fd, level, option, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S);
  set(IPPROTO_TCP, TCP_KEEPINTVL, LOOK_S);
  set(IPPROTO_TCP, TCP_KEEPCNT, LOOKS);
}

kj::AutoCloseFd toHost(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* list = nullptr;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &list))
    throw std::runtime_error("host " + host + ": " +
                             (error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(list, freeaddrinfo);
  std::string why = "it has no address";
  for (const addrinfo* one = list; one != nullptr; one = one->ai_next) {
    if (one->ai_family != AF_INET && one->ai_family != AF_INET6) continue;
    kj::AutoCloseFd fd(socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int error = fd.get() < 0 ? errno : connected(fd.get(), one->ai_addr, one->ai_addrlen);
    if (error == 0) {
      watch(fd.get());
      return fd;
    }
    why = fd.get() < 0 && error == EAFNOSUPPORT
              ? "this service may not use the network (RestrictAddressFamilies=, docs/remote.md)"
              : std::string(std::strerror(error)) + "; is the server running?";
  }
  throw std::runtime_error("host " + host + ", port " + port + ": " + why);
}

kj::AutoCloseFd to(const rpc::SourceUri& uri) {
  if (const auto* server = std::get_if<rpc::NbdUri>(&uri.of))
    return server->host.empty() ? toSocket(server->socket) : toHost(server->host, server->port);
  if (const auto* object = std::get_if<rpc::ObjectUri>(&uri.of)) return toHost(object->host, object->port);
  throw std::runtime_error("Ceph's library makes its own connections");
}

}  // namespace

int connectFor(const rpc::SourceUri& uri, int channel) {
  try {
    const kj::AutoCloseFd fd = to(uri);
    rpc::sendConnection(channel, fd.get());
    return 0;
  } catch (const std::exception& error) {
    rpc::sendNoConnection(channel, error.what());
    return 1;
  }
}

}  // namespace faultline::fetcher
