#include "uffd/probe.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "uffd/uffd.h"

namespace faultline::uffd {

namespace {

constexpr std::uint64_t PAGE = 4096;

// -1: errno says why.
int byDevice() {
  const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) return -1;
  const int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  const int error = errno;
  close(device);
  errno = error;
  return fd;
}

// Makes one as the server and its targets do. `abilities` gets how.
int make(Abilities& abilities) {
  int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  abilities.error = fd < 0 ? errno : 0;
  if (fd < 0) {
    fd = byDevice();
    abilities.byDevice = fd >= 0;
  }
  if (fd >= 0) {
    abilities.faults = Abilities::Faults::all;
    return fd;
  }
  fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY));
  if (fd >= 0) abilities.faults = Abilities::Faults::ownOnly;
  return fd;
}

bool registers(int fd, std::uint64_t at, std::uint64_t bytes) {
  uffdio_register range{};
  range.range = {at, bytes};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  return ioctl(fd, UFFDIO_REGISTER, &range) == 0;
}

}  // namespace

Abilities probe() {
  Abilities abilities;
  const int fd = make(abilities);
  if (fd < 0) return abilities;
  uffdio_api api{};
  api.api = UFFD_API;
  if (ioctl(fd, UFFDIO_API, &api) == 0) abilities.features = api.features;
  constexpr std::uint64_t BYTES = 3 * PAGE;
  void* const memory = mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory != MAP_FAILED) {
    const auto at = reinterpret_cast<std::uint64_t>(memory);
    if (registers(fd, at, BYTES)) {
      alignas(PAGE) static constexpr std::array<std::byte, PAGE> BYTES_OF_A_PAGE{};
      abilities.populates =
          copy(fd, at, BYTES_OF_A_PAGE.data(), PAGE, Protect::no, Waiters::leave).outcome == Outcome::done &&
          zero(fd, at + PAGE, PAGE, Waiters::leave).outcome == Outcome::done;
      abilities.poisons = poison(fd, at + 2 * PAGE, PAGE).outcome == Outcome::done;
      abilities.populates = unregister(fd, at, BYTES) == 0 && abilities.populates;
    }
    munmap(memory, BYTES);
  }
  close(fd);
  return abilities;
}

}  // namespace faultline::uffd
