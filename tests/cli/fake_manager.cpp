#include "tests/cli/fake_manager.h"

#include <kj/debug.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace faultline::test {

FakeManager::FakeManager() : directory_(std::filesystem::temp_directory_path() / "faultline-test-XXXXXX") {
  KJ_REQUIRE(mkdtemp(directory_.data()) != nullptr);
  socket_ = kj::AutoCloseFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path().copy(address.sun_path, sizeof address.sun_path - 1);
  KJ_SYSCALL(bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
}

FakeManager::~FakeManager() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

FakeManager::Notice FakeManager::next() {
  awaitReadable(socket_.get(), "a word to the service manager");
  char text[512];
  iovec body{text, sizeof text};
  alignas(cmsghdr) char control[256];
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  KJ_SYSCALL(got = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC));
  Notice notice{std::string(text, static_cast<std::size_t>(got)), kj::AutoCloseFd()};
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_type != SCM_RIGHTS) continue;
    int fd;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    notice.fd = kj::AutoCloseFd(fd);
  }
  return notice;
}

FakeManager::Notice FakeManager::skipTo(const std::string& text) {
  for (;;) {
    Notice notice = next();
    if (notice.text.find(text) != std::string::npos) return notice;
  }
}

Beginning under(const FakeManager& manager) {
  Beginning beginning;
  beginning.inChild = [path = manager.path()] { setenv("NOTIFY_SOCKET", path.c_str(), 1); };
  return beginning;
}

}  // namespace faultline::test
