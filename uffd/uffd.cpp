#include "uffd/uffd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace faultline::uffd {

namespace {

// `done`: the ioctl's own count, bytes or a negative errno; 0 where an older kernel leaves it on EAGAIN.
Result settle(int result, std::int64_t done, std::uint64_t length) {
  if (result == 0) return {Outcome::done, length, 0};
  const int error = errno;
  if (done > 0) return {Outcome::partial, static_cast<std::uint64_t>(done), error};
  switch (error) {
    case EAGAIN:
      return {Outcome::refused, 0, error};
    case EEXIST:
      return {Outcome::present, 0, error};
    case ENOENT:
      return {Outcome::rangeGone, 0, error};
    case ESRCH:
      return {Outcome::targetGone, 0, error};
    case ENOMEM:
      return {Outcome::noMemory, 0, error};
    case EFAULT:
      return {Outcome::sourceLost, 0, error};
    default:
      return {Outcome::unsupported, 0, error};
  }
}

int rangeCall(int uffd, unsigned long request, std::uint64_t start, std::uint64_t length) {
  uffdio_range range{start, length};
  return ioctl(uffd, request, &range) == 0 ? 0 : errno;
}

}  // namespace

Result copy(int uffd, std::uint64_t to, const void* from, std::uint64_t length, Protect protect,
            Waiters waiters) {
  uffdio_copy request{};
  request.dst = to;
  request.src = reinterpret_cast<std::uint64_t>(from);
  request.len = length;
  if (protect == Protect::yes) request.mode |= UFFDIO_COPY_MODE_WP;
  if (waiters == Waiters::leave) request.mode |= UFFDIO_COPY_MODE_DONTWAKE;
  const int result = ioctl(uffd, UFFDIO_COPY, &request);
  return settle(result, request.copy, length);
}

Result zero(int uffd, std::uint64_t to, std::uint64_t length, Waiters waiters) {
  uffdio_zeropage request{};
  request.range = {to, length};
  if (waiters == Waiters::leave) request.mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE;
  const int result = ioctl(uffd, UFFDIO_ZEROPAGE, &request);
  return settle(result, request.zeropage, length);
}

Result poison(int uffd, std::uint64_t to, std::uint64_t length) {
  UffdioPoison request{};
  request.range = {to, length};
  const int result = ioctl(uffd, POISON_REQUEST, &request);
  return settle(result, request.updated, length);
}

int wake(int uffd, std::uint64_t start, std::uint64_t length) {
  return rangeCall(uffd, UFFDIO_WAKE, start, length);
}

int wakeAll(int uffd) {
  // A wake needs no registered range, only addresses that a process may have (fs/userfaultfd.c,
  // validate_range): from vm.mmap_min_addr, which is at most this, to the end of what mmap() gives without
  // being asked for more.
  constexpr std::uint64_t FIRST = 1 << 16, END = (1ull << 47) - 4096;
  return wake(uffd, FIRST, END - FIRST);
}

int unregister(int uffd, std::uint64_t start, std::uint64_t length) {
  return rangeCall(uffd, UFFDIO_UNREGISTER, start, length);
}

int unprotect(int uffd, std::uint64_t start, std::uint64_t length) {
  uffdio_writeprotect request{};
  request.range = {start, length};
  return ioctl(uffd, UFFDIO_WRITEPROTECT, &request) == 0 ? 0 : errno;
}

bool eventInFlight(int uffd) {
  uffdio_copy nothing{};
  return ioctl(uffd, UFFDIO_COPY, &nothing) != 0 && errno == EAGAIN;
}

std::optional<std::uint64_t> waitingThreads(int uffd) {
  char path[48], text[512];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", uffd);
  const int info = open(path, O_RDONLY | O_CLOEXEC);
  if (info < 0) return std::nullopt;
  const ssize_t length = read(info, text, sizeof text - 1);
  close(info);
  text[std::max<ssize_t>(length, 0)] = '\0';
  const char* total = std::strstr(text, "total:");
  if (total == nullptr) return std::nullopt;
  return std::strtoull(total + std::strlen("total:"), nullptr, 10);
}

bool isUserfaultfd(int fd) {
  char target[64];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = readlink(link.c_str(), target, sizeof target);
  return length > 0 && std::string(target, static_cast<std::size_t>(length)) == "anon_inode:[userfaultfd]";
}

}  // namespace faultline::uffd
