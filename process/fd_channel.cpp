#include "process/fd_channel.h"

#include <kj/debug.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace faultline::process {

namespace {
constexpr std::size_t MAX_MESSAGE = 1024;
}

std::pair<kj::AutoCloseFd, kj::AutoCloseFd> FdChannel::pair() {
  int ends[2];
  KJ_SYSCALL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
  return {kj::AutoCloseFd(ends[0]), kj::AutoCloseFd(ends[1])};
}

bool FdChannel::send(const std::string& verb, const std::string& name, int fd) {
  const std::string text = verb + "\n" + name;
  KJ_REQUIRE(text.size() <= MAX_MESSAGE, "message too long for the channel", verb, text.size());
  iovec body{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  for (;;) {
    if (sendmsg(socket_.get(), &message, MSG_NOSIGNAL) >= 0) return true;
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) {
      closed_ = true;
      return false;
    }
    KJ_FAIL_SYSCALL("sendmsg on the fd channel", errno, verb, name);
  }
}

kj::Maybe<FdChannel::Message> FdChannel::receive(Wait wait) {
  char text[MAX_MESSAGE];
  iovec body{text, sizeof text};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | (wait == Wait::no ? MSG_DONTWAIT : 0));
  } while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN) return nullptr;
  if (got <= 0) {
    closed_ = true;
    return nullptr;
  }
  Message result;
  if (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    int fd;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    result.fd = kj::AutoCloseFd(fd);
  }
  result.fdLost = (message.msg_flags & MSG_CTRUNC) != 0;
  const std::string all(text, static_cast<std::size_t>(got));
  const std::size_t lineFeed = all.find('\n');
  result.verb = all.substr(0, lineFeed);
  if (lineFeed != std::string::npos) result.name = all.substr(lineFeed + 1);
  return result;
}

}  // namespace faultline::process
