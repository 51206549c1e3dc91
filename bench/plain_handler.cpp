#include "bench/plain_handler.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

namespace faultline::bench {

const PlainRegion* PlainTarget::find(std::uint64_t address) const {
  for (const PlainRegion& region : regions)
    if (address >= region.base && address - region.base < region.size) return &region;
  return nullptr;
}

PlainTarget acceptPlainly(int listening) {
  PlainTarget target;
  int fd;
  KJ_SYSCALL(fd = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC));
  target.socket = kj::AutoCloseFd(fd);
  char body[64 << 10];
  iovec to{body, sizeof body};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &to;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  KJ_SYSCALL(got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC));
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  KJ_REQUIRE(header != nullptr && header->cmsg_type == SCM_RIGHTS, "a handshake without an fd");
  int uffd;
  std::memcpy(&uffd, CMSG_DATA(header), sizeof uffd);
  target.uffd = kj::AutoCloseFd(uffd);
  for (const auto& region : nlohmann::json::parse(body, body + got))
    target.regions.push_back({region.at("base_host_virt_addr"), region.at("size"), region.at("offset"),
                              region.value("page_size", std::uint64_t{4096})});
  return target;
}

MappedSource::MappedSource(const std::string& path, Readiness readiness) {
  int fd;
  KJ_SYSCALL(fd = open(path.c_str(), O_RDONLY | O_CLOEXEC), path);
  const kj::AutoCloseFd file(fd);
  struct stat status {};
  KJ_SYSCALL(fstat(fd, &status));
  void* start = mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_SHARED, fd, 0);
  if (start == MAP_FAILED) KJ_FAIL_SYSCALL("map the source", errno, path);
  if (readiness == Readiness::resident)
    madvise(start, static_cast<std::size_t>(status.st_size), MADV_POPULATE_READ);
  start_ = static_cast<const char*>(start);
}

void copyPlainly(const PlainTarget& target, const MappedSource& source, std::uint64_t address) {
  const PlainRegion* region = target.find(address);
  if (region == nullptr) return;
  const std::uint64_t page = address & ~(region->pageSize - 1);
  uffdio_copy copy{};
  copy.dst = page;
  copy.src = reinterpret_cast<std::uint64_t>(source.at(region->offset + (page - region->base)));
  copy.len = region->pageSize;
  if (ioctl(target.uffd.get(), UFFDIO_COPY, &copy) == 0) return;
  // Present, or refused while a removal waits to be read: the thread looks, or faults, again.
  uffdio_range range{page, region->pageSize};
  ioctl(target.uffd.get(), UFFDIO_WAKE, &range);
}

void copyAround(const PlainTarget& target, const MappedSource& source, std::uint64_t address,
                std::uint64_t window) {
  const PlainRegion* region = target.find(address);
  if (region == nullptr) return;
  const std::uint64_t size = std::max(window, region->pageSize);
  const std::uint64_t begin = std::max(region->base, address & ~(size - 1));
  const std::uint64_t end = std::min(region->base + region->size, (address & ~(size - 1)) + size);
  for (std::uint64_t at = begin; at < end;) {
    uffdio_copy copy{};
    copy.dst = at;
    copy.src = reinterpret_cast<std::uint64_t>(source.at(region->offset + (at - region->base)));
    copy.len = end - at;
    if (ioctl(target.uffd.get(), UFFDIO_COPY, &copy) == 0) {
      if (at == begin) return;  // woken by the copy
      break;
    }
    if (copy.copy > 0)
      at += static_cast<std::uint64_t>(copy.copy);  // up to a page that is there
    else if (copy.copy == -EEXIST)
      at += region->pageSize;
    else
      break;  // refused while a removal waits to be read: the thread faults again
  }
  uffdio_range range{begin, end - begin};
  ioctl(target.uffd.get(), UFFDIO_WAKE, &range);
}

}  // namespace faultline::bench
