// The memory that a userfaultfd has registered, as the kernel tells it.

#include "coordinator/registered_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <kj/io.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <set>

namespace faultline::coordinator {
namespace {

constexpr std::size_t PAGE = 4096, BYTES = 4 * PAGE;

kj::AutoCloseFd pidfdOf(pid_t pid) {
  int fd;
  KJ_SYSCALL(fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  return kj::AutoCloseFd(fd);
}

kj::AutoCloseFd userfaultfd() {
  int fd;
  KJ_SYSCALL(fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{};
  api.api = UFFD_API;
  KJ_SYSCALL(ioctl(fd, UFFDIO_API, &api));
  return kj::AutoCloseFd(fd);
}

// A mapping that no other is joined to.
std::uint64_t mapped() {
  char* start =
      static_cast<char*>(mmap(nullptr, BYTES + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(start + PAGE, BYTES, PROT_READ | PROT_WRITE);
  return reinterpret_cast<std::uint64_t>(start + PAGE);
}

std::uint64_t registered(const kj::AutoCloseFd& uffd, std::uint64_t mode) {
  uffdio_register request{};
  request.range = {mapped(), BYTES};
  request.mode = mode;
  KJ_SYSCALL(ioctl(uffd.get(), UFFDIO_REGISTER, &request));
  return request.range.start;
}

TEST(RegisteredMemory, IsWhatThisUserfaultfdHasAndNoOther) {
  const kj::AutoCloseFd ours = userfaultfd(), other = userfaultfd();
  const std::uint64_t plain = registered(ours, UFFDIO_REGISTER_MODE_MISSING);
  const std::uint64_t tracked = registered(ours, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
  registered(other, UFFDIO_REGISTER_MODE_MISSING);
  mapped();
  const auto found = registeredMemory(ours.get(), pidfdOf(getpid()).get());
  ASSERT_TRUE(found.has_value());
  std::set<std::uint64_t> bases;
  for (const shm::RegionEntry& entry : *found) {
    bases.insert(entry.base);
    EXPECT_EQ(entry.size, BYTES);
    EXPECT_EQ(entry.pageShift, 12u);
  }
  EXPECT_EQ(bases, (std::set<std::uint64_t>{plain, tracked}));
}

// Who connected need not be whose memory it is.
TEST(RegisteredMemory, OfAnotherProcessIsNone) {
  const kj::AutoCloseFd ours = userfaultfd();
  registered(ours, UFFDIO_REGISTER_MODE_MISSING);
  const auto found = registeredMemory(ours.get(), pidfdOf(getppid()).get());
  if (found.has_value()) {
    EXPECT_TRUE(found->empty());
  }
}

}  // namespace
}  // namespace faultline::coordinator
