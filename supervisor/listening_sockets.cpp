#include "supervisor/listening_sockets.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace faultline::supervisor {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view LISTEN = ".listen";
constexpr std::string_view CONN = ".conn.";
constexpr std::chrono::milliseconds HOLD{100};  // after fds or memory ran out
// Fds left to what must be kept of the restores that begin (five each), and to the supervisor itself.
constexpr rlim_t RESERVED = 32;

// "listener.vm.conn." for "listener.vm.listen".
std::string connectionStem(const std::string& listener) {
  return listener.substr(0, listener.size() - LISTEN.size()) + std::string(CONN);
}

bool isListening(int fd) {
  int accepting = 0;
  socklen_t size = sizeof accepting;
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &size) == 0 && accepting != 0;
}

// accept4(), but EMFILE while there is still something left.
int acceptOne(int listener, std::size_t kept) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && kept + RESERVED >= limit.rlim_cur) {
    errno = EMFILE;
    return -1;
  }
  return accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

}  // namespace

ListeningSockets::ListeningSockets(FdStore& kept) : kept_(kept) {
  for (const auto& entry : kept.entries()) {
    added(entry.name);
    // Given back by a service manager: its number must not be given out again.
    const std::size_t conn = entry.name.rfind(CONN);
    if (conn == std::string::npos) continue;
    std::uint64_t& last = last_[entry.name.substr(0, conn) + std::string(LISTEN)];
    last = std::max<std::uint64_t>(last, std::strtoull(entry.name.c_str() + conn + CONN.size(), nullptr, 10));
  }
}

void ListeningSockets::added(const std::string& name) {
  if (!name.ends_with(LISTEN)) return;
  const SharedFd socket = kept_.find(name);
  unusable_.erase(name);
  // What no connection can come by would be ready for ever, and the supervisor would do nothing else.
  if (!isListening(socket->get())) {
    spdlog::error("{} is no listening socket: no target can connect by it", name);
    unusable_.insert(name);
    return;
  }
  // Another process may hold the socket too, and take the connection that poll() told us of.
  const int flags = fcntl(socket->get(), F_GETFL);
  fcntl(socket->get(), F_SETFL, flags | O_NONBLOCK);
}

std::optional<Clock::time_point> ListeningSockets::heldUntil() const {
  return heldUntil_.has_value() && Clock::now() < *heldUntil_ ? heldUntil_ : std::nullopt;
}

std::size_t ListeningSockets::waiting(const std::string& stem) const {
  return static_cast<std::size_t>(
      std::count_if(kept_.entries().begin(), kept_.entries().end(),
                    [&stem](const FdStore::Entry& entry) { return entry.name.starts_with(stem); }));
}

std::vector<ListeningSockets::Ready> ListeningSockets::toPoll() const {
  std::vector<Ready> result;
  if (heldUntil().has_value()) return result;
  for (const auto& entry : kept_.entries())
    if (entry.name.ends_with(LISTEN) && unusable_.count(entry.name) == 0 &&
        waiting(connectionStem(entry.name)) < MAX_WAITING)
      result.push_back({entry.name, entry.fd->get()});
  return result;
}

std::optional<std::string> ListeningSockets::accept(const Ready& listener) {
  const int fd = acceptOne(listener.fd, kept_.entries().size());
  if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)) return std::nullopt;
  if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
    if (!heldUntil_.has_value())
      spdlog::error("{}: targets have to wait: {}; raise the limit on open files", listener.name,
                    std::strerror(errno));
    heldUntil_ = Clock::now() + HOLD;
    return std::nullopt;
  }
  if (fd < 0) {
    spdlog::error("{}: no more targets are accepted: {}", listener.name, std::strerror(errno));
    unusable_.insert(listener.name);
    return std::nullopt;
  }
  heldUntil_.reset();
  std::string name = connectionStem(listener.name) + std::to_string(++last_[listener.name]);
  kept_.keep(name, kj::AutoCloseFd(fd));
  return name;
}

}  // namespace faultline::supervisor
