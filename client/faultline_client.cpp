#include "faultline_client.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

struct faultline_target {
  struct Mapping {
    void* address = MAP_FAILED;
    faultline_region region{};
    bool registered = false;
  };
  std::vector<Mapping> mappings;
  int uffd = -1;
  int socket = -1;
};

namespace {

// include/uapi/linux/userfaultfd.h of Linux 6.4 and 6.7; Debian 12's headers end at 6.1.
constexpr std::uint64_t WP_UNPOPULATED = 1ull << 13;
constexpr std::uint64_t WP_ASYNC = 1ull << 15;
constexpr unsigned long DEVICE_NEW = 0xAA00;  // USERFAULTFD_IOC_NEW, _IO(0xAA, 0x00)

struct Why {
  char* text;
  std::size_t size;

  // Writes the message; returns -error.
  int operator()(int error, const char* format, ...) const __attribute__((format(printf, 3, 4))) {
    if (text == nullptr || size == 0) return -error;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, size, format, arguments);
    va_end(arguments);
    return -error;
  }
};

std::uint64_t nowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000 + static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

int openUffd(const Why& why) {
  constexpr int FLAGS = O_CLOEXEC | O_NONBLOCK;
  const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    const int fd = ioctl(device, DEVICE_NEW, FLAGS);
    close(device);
    if (fd >= 0) return fd;
  }
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, FLAGS));
  if (fd >= 0) return fd;
  return why(
      errno,
      "cannot make a userfaultfd: %s; give this user access to /dev/userfaultfd, or CAP_SYS_PTRACE, or set "
      "sysctl vm.unprivileged_userfaultfd=1",
      strerror(errno));
}

int setUp(int uffd, unsigned flags, const Why& why) {
  uffdio_api api{};
  api.api = UFFD_API;
  if ((flags & FAULTLINE_NO_REMOVE) == 0) api.features |= UFFD_FEATURE_EVENT_REMOVE;
  if ((flags & FAULTLINE_TRACK_WRITES) != 0)
    api.features |= WP_UNPOPULATED | WP_ASYNC | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  if (ioctl(uffd, UFFDIO_API, &api) == 0) return 0;
  return why(errno, "the kernel refuses the userfaultfd features 0x%llx: %s; write tracking needs Linux 6.7",
             static_cast<unsigned long long>(api.features), strerror(errno));
}

int mapRegion(faultline_target::Mapping& mapping, std::size_t index, const Why& why) {
  const faultline_region& region = mapping.region;
  const bool huge = region.page_size == 2u << 20;
  if (!huge && region.page_size != 4096)
    return why(EINVAL, "region %zu: page size %llu is not served; 4096 and 2097152 are", index,
               static_cast<unsigned long long>(region.page_size));
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (huge) flags |= MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
  mapping.address = mmap(nullptr, region.size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapping.address != MAP_FAILED) return 0;
  return why(errno, "region %zu: cannot map %llu bytes: %s%s", index,
             static_cast<unsigned long long>(region.size), strerror(errno),
             huge ? "; are there enough huge pages? (/proc/sys/vm/nr_hugepages)" : "");
}

int registerRegion(int uffd, faultline_target::Mapping& mapping, std::size_t index, unsigned flags,
                   const Why& why) {
  uffdio_register request{};
  request.range = {reinterpret_cast<std::uint64_t>(mapping.address), mapping.region.size};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if ((flags & FAULTLINE_TRACK_WRITES) != 0) request.mode |= UFFDIO_REGISTER_MODE_WP;
  if (ioctl(uffd, UFFDIO_REGISTER, &request) != 0)
    return why(errno, "region %zu: cannot register it with the userfaultfd: %s", index, strerror(errno));
  mapping.registered = true;
  if ((flags & FAULTLINE_TRACK_WRITES) == 0) return 0;
  // Arms the empty pages too, so that a first write is told from a restore.
  uffdio_writeprotect protect{};
  protect.range = request.range;
  protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
  if (ioctl(uffd, UFFDIO_WRITEPROTECT, &protect) == 0) return 0;
  return why(errno, "region %zu: cannot arm write tracking: %s", index, strerror(errno));
}

std::string handshakeBody(const faultline_region* regions, void* const* addresses, std::size_t count) {
  std::string body = "[";
  for (std::size_t i = 0; i < count; i++) {
    char text[256];
    snprintf(
        text, sizeof text,
        "%s{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,\"page_size\":%llu,"
        "\"page_size_kib\":%llu}",
        i == 0 ? "" : ",", static_cast<unsigned long long>(reinterpret_cast<std::uint64_t>(addresses[i])),
        static_cast<unsigned long long>(regions[i].size), static_cast<unsigned long long>(regions[i].offset),
        static_cast<unsigned long long>(regions[i].page_size),
        static_cast<unsigned long long>(regions[i].page_size));
    body += text;
  }
  return body + "]";
}

// Connects, waiting for the server to be there. The fd, or a negative errno.
int connectTo(const char* path, unsigned timeoutMs, const Why& why) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof address.sun_path)
    return why(ENAMETOOLONG, "the socket path %s is too long; %zu bytes are possible", path,
               sizeof address.sun_path - 1);
  strcpy(address.sun_path, path);
  const std::uint64_t deadline = nowMs() + timeoutMs;
  for (;;) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return why(errno, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
    const int error = errno;
    close(fd);
    const bool comes = error == ENOENT || error == ECONNREFUSED;
    if (!comes || nowMs() >= deadline)
      return why(error, "cannot reach a page server at %s: %s%s", path, strerror(error),
                 comes ? "; is one listening there?" : "");
    poll(nullptr, 0, 5);
  }
}

int sendHandshake(int fd, const std::string& body, int uffd, const Why& why) {
  iovec part{const_cast<char*>(body.data()), body.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &uffd, sizeof uffd);
  ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
  for (std::size_t done = 0; sent >= 0;
       sent = send(fd, body.data() + done, body.size() - done, MSG_NOSIGNAL)) {
    done += static_cast<std::size_t>(sent);
    if (done == body.size()) return 0;
  }
  return why(errno, "cannot send the handshake: %s", strerror(errno));
}

}  // namespace

extern "C" {

int faultline_target_open(const faultline_region* regions, size_t count, unsigned flags,
                          faultline_target** target, char* text, size_t size) {
  const Why why{text, size};
  auto* made = new (std::nothrow) faultline_target;
  if (made == nullptr) return why(ENOMEM, "out of memory");
  made->mappings.resize(count);
  int result = openUffd(why);
  if (result >= 0) {
    made->uffd = result;
    result = setUp(made->uffd, flags, why);
  }
  for (size_t i = 0; result >= 0 && i < count; i++) {
    made->mappings[i].region = regions[i];
    result = mapRegion(made->mappings[i], i, why);
    if (result >= 0) result = registerRegion(made->uffd, made->mappings[i], i, flags, why);
  }
  if (result < 0) {
    faultline_target_close(made);
    return result;
  }
  *target = made;
  return 0;
}

int faultline_handshake(const char* path, int uffd, const faultline_region* regions, void* const* addresses,
                        size_t count, unsigned timeoutMs, char* text, size_t size) {
  const Why why{text, size};
  const int fd = connectTo(path, timeoutMs, why);
  if (fd < 0) return fd;
  const int result = sendHandshake(fd, handshakeBody(regions, addresses, count), uffd, why);
  if (result == 0) return fd;
  close(fd);
  return result;
}

int faultline_target_connect(faultline_target* target, const char* path, unsigned timeoutMs, char* text,
                             size_t size) {
  std::vector<faultline_region> regions;
  std::vector<void*> addresses;
  for (const auto& mapping : target->mappings) {
    regions.push_back(mapping.region);
    addresses.push_back(mapping.address);
  }
  const int fd = faultline_handshake(path, target->uffd, regions.data(), addresses.data(), regions.size(),
                                     timeoutMs, text, size);
  if (fd < 0) return fd;
  target->socket = fd;
  return 0;
}

size_t faultline_target_regions(const faultline_target* target) {
  return target->mappings.size();
}

void* faultline_target_address(const faultline_target* target, size_t region) {
  return target->mappings[region].address;
}

int faultline_target_uffd(const faultline_target* target) {
  return target->uffd;
}

int faultline_target_socket(const faultline_target* target) {
  return target->socket;
}

void faultline_target_close(faultline_target* target) {
  if (target == nullptr) return;
  for (auto& mapping : target->mappings) {
    if (mapping.registered) {
      // Before unmapping: a removal that nobody reads any more would block it.
      uffdio_range range{reinterpret_cast<std::uint64_t>(mapping.address), mapping.region.size};
      ioctl(target->uffd, UFFDIO_UNREGISTER, &range);
    }
    if (mapping.address != MAP_FAILED) munmap(mapping.address, mapping.region.size);
  }
  if (target->socket >= 0) close(target->socket);
  if (target->uffd >= 0) close(target->uffd);
  delete target;
}

}  // extern "C"
