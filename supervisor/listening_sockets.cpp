#include "supervisor/listening_sockets.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "process/kept_name.h"

namespace faultline::supervisor {

using process::KeptName;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds HOLD{100};  // after fds or memory ran out
// Fds left to the supervisor itself, and to the coordinator, which has the same limit, holds the same fds, and has some
// for its shards besides.
constexpr rlim_t RESERVED = 32;
// Fds that a connection may come to need as its restore begins: five that are kept, and those that are on their way to
// shards.
constexpr rlim_t A_BEGINNING = 16;

bool isListening(int fd) {
  int accepting = 0;
  socklen_t size = sizeof accepting;
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &size) == 0 && accepting != 0;
}

// accept4(), but EMFILE while there is still something left. `needed`: fds that those before it have and may come to need.
int acceptOne(int listener, std::size_t needed) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && needed + A_BEGINNING + RESERVED >= limit.rlim_cur) {
    errno = EMFILE;
    return -1;
  }
  return accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

}  // namespace

ListeningSockets::ListeningSockets(FdStore& kept) : kept_(kept) {
  for (const auto& entry : kept.entries()) added(entry.name);
}

void ListeningSockets::added(const std::string& text) {
  const auto name = KeptName::parse(text);
  if (!name.has_value() || name->kind != KeptName::Kind::listener) return;
  if (name->part == KeptName::Part::conn) {
    // Given back by a service manager: its number must not be given out again.
    Socket& socket = sockets_[name->key];
    socket.waiting++;
    socket.last = std::max(socket.last, name->number.value());
  }
  if (name->part != KeptName::Part::listen) return;
  const SharedFd fd = kept_.find(text);
  sockets_[name->key].open = isListening(fd->get());
  // A socket by which no connection can come would be ready for ever, and the supervisor would do nothing else.
  if (!isListening(fd->get()))
    return spdlog::error("{} is no listening socket: no target can connect by it", text);
  // Another process may hold the socket too, and take the connection that poll() told us of.
  const int flags = fcntl(fd->get(), F_GETFL);
  fcntl(fd->get(), F_SETFL, flags | O_NONBLOCK);
}

void ListeningSockets::dropped(const std::string& text) {
  const auto name = KeptName::parse(text);
  if (!name.has_value() || name->kind != KeptName::Kind::listener) return;
  const auto socket = sockets_.find(name->key);
  if (socket == sockets_.end()) return;
  if (name->part == KeptName::Part::conn && socket->second.waiting > 0) socket->second.waiting--;
  if (name->part == KeptName::Part::listen) socket->second.open = false;
}

std::optional<Clock::time_point> ListeningSockets::heldUntil() const {
  return heldUntil_.has_value() && Clock::now() < *heldUntil_ ? heldUntil_ : std::nullopt;
}

std::vector<ListeningSockets::Ready> ListeningSockets::toPoll() const {
  std::vector<Ready> result;
  if (heldUntil().has_value()) return result;
  for (const auto& [key, socket] : sockets_) {
    if (!socket.open || socket.waiting >= MAX_WAITING) continue;
    std::string name = KeptName::listener(key, KeptName::Part::listen).text();
    const int fd = kept_.find(name)->get();
    result.push_back({key, std::move(name), fd});
  }
  return result;
}

std::optional<std::string> ListeningSockets::accept(const Ready& listener) {
  std::size_t waiting = 0;
  for (const auto& [key, socket] : sockets_) waiting += socket.waiting;
  const int fd = acceptOne(listener.fd, kept_.entries().size() + waiting * A_BEGINNING);
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
    sockets_[listener.key].open = false;
    return std::nullopt;
  }
  heldUntil_.reset();
  Socket& socket = sockets_[listener.key];
  socket.waiting++;
  std::string name = KeptName::listener(listener.key, KeptName::Part::conn, ++socket.last).text();
  kept_.keep(name, kj::AutoCloseFd(fd));
  return name;
}

}  // namespace faultline::supervisor
