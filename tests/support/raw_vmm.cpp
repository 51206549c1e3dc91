#include "tests/support/raw_vmm.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "tests/support/send_with_fds.h"

namespace faultline::test {

RawVmm::RawVmm(const std::vector<std::uint64_t>& sizes, std::uint64_t pageSize, std::uint64_t features,
               std::uint64_t mode, int memory, const std::vector<std::uint64_t>& addresses, bool privately)
    : uffd_(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  KJ_SYSCALL(ioctl(uffd_.get(), UFFDIO_API, &api));
  std::uint64_t offset = 0;
  for (const std::uint64_t size : sizes) {
    const int own = MAP_PRIVATE | MAP_ANONYMOUS | (pageSize == 4096 ? 0 : MAP_HUGETLB);
    const int file = privately ? MAP_PRIVATE : MAP_SHARED;
    void* wish = addresses.empty() ? nullptr : reinterpret_cast<void*>(addresses[parts_.size()]);
    const int place = wish == nullptr ? 0 : MAP_FIXED_NOREPLACE;
    void* start = mmap(wish, size, PROT_READ | PROT_WRITE, place | MAP_NORESERVE | (memory < 0 ? own : file),
                       memory, memory < 0 ? 0 : static_cast<off_t>(offset));
    KJ_REQUIRE(start != MAP_FAILED, "no memory for a guest", size);
    uffdio_register range{};
    range.range = {reinterpret_cast<std::uint64_t>(start), size};
    range.mode = mode;
    KJ_SYSCALL(ioctl(uffd_.get(), UFFDIO_REGISTER, &range));
    parts_.push_back({static_cast<unsigned char*>(start), size, offset});
    offset += size;
  }
}

RawVmm::~RawVmm() {
  for (const Part& part : parts_) {
    uffdio_range range{reinterpret_cast<std::uint64_t>(part.address), part.size};
    ioctl(uffd_.get(), UFFDIO_UNREGISTER, &range);
    munmap(part.address, part.size);
  }
}

std::string RawVmm::body(const std::string& more) const {
  std::string text;
  for (const Part& part : parts_)
    text += (text.empty() ? "[{" : ",{") + std::string("\"base_host_virt_addr\":") +
            std::to_string(reinterpret_cast<std::uint64_t>(part.address)) +
            ",\"size\":" + std::to_string(part.size) + ",\"offset\":" + std::to_string(part.offset) + more +
            "}";
  return text + "]";
}

void RawVmm::connect(const std::string& socket) {
  connection_ = kj::AutoCloseFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  KJ_REQUIRE(socket.size() < sizeof address.sun_path);
  socket.copy(address.sun_path, sizeof address.sun_path - 1);
  KJ_SYSCALL(::connect(connection_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
}

void RawVmm::send(const std::string& text, const std::vector<int>& fds) {
  KJ_REQUIRE(sendWithFds(connection_.get(), text, fds));
}

void RawVmm::awaitHangUp() {
  char byte;
  while (recv(connection_.get(), &byte, 1, 0) > 0) continue;
}

}  // namespace faultline::test
