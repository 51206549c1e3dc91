// A page server that ignores removals, for the controls: it answers every fault with the snapshot's bytes,
// whatever the target has given back. careless-handler SOCKET MEMORY; ends when the target has gone.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace {

struct Region {
  std::uint64_t address, size, offset, pageSize;
};

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

int acceptTarget(const char* path) {
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // Under its name only once it listens.
  const std::string made = std::string(path) + ".new";
  std::strncpy(address.sun_path, made.c_str(), sizeof address.sun_path - 1);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 1) != 0 || rename(made.c_str(), path) != 0)
    fail(path);
  return accept(listener, nullptr, nullptr);
}

// The handshake, which is far smaller than what a socket's buffer holds.
std::vector<Region> readRegions(int connection, int& uffd) {
  char body[4096];
  iovec part{body, sizeof body};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t bytes = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
  if (bytes <= 0 || CMSG_FIRSTHDR(&message) == nullptr) fail("the handshake");
  std::memcpy(&uffd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof uffd);
  std::vector<Region> regions;
  for (const auto& region : nlohmann::json::parse(std::string(body, static_cast<std::size_t>(bytes))))
    regions.push_back({region["base_host_virt_addr"], region["size"], region["offset"], region["page_size"]});
  return regions;
}

// EAGAIN: a removal is under way. The woken thread faults again.
void answer(int uffd, const std::vector<Region>& regions, const char* memory, std::uint64_t address) {
  for (const Region& region : regions) {
    if (address - region.address >= region.size) continue;
    const std::uint64_t page = (address - region.address) / region.pageSize * region.pageSize;
    uffdio_copy copy{};
    copy.dst = region.address + page;
    copy.src = reinterpret_cast<std::uint64_t>(memory) + region.offset + page;
    copy.len = region.pageSize;
    if (ioctl(uffd, UFFDIO_COPY, &copy) == 0) return;
    uffdio_range range{copy.dst, copy.len};
    ioctl(uffd, UFFDIO_WAKE, &range);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const int file = open(arguments[2], O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || fstat(file, &status) != 0) fail(arguments[2]);
  const auto size = static_cast<std::size_t>(status.st_size);
  const auto* memory = static_cast<const char*>(mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0));
  if (memory == MAP_FAILED) fail("mmap");
  const int connection = acceptTarget(arguments[1]);
  int uffd = -1;
  const std::vector<Region> regions = readRegions(connection, uffd);
  for (;;) {
    pollfd ready[] = {{uffd, POLLIN, 0}, {connection, POLLRDHUP, 0}};
    if (poll(ready, 2, -1) < 0 || ready[1].revents != 0) return 0;
    uffd_msg message;
    while (read(uffd, &message, sizeof message) == static_cast<ssize_t>(sizeof message))
      if (message.event == UFFD_EVENT_PAGEFAULT) answer(uffd, regions, memory, message.arg.pagefault.address);
  }
}
