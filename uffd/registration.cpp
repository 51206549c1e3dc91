#include "uffd/registration.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "uffd/uffd.h"

namespace faultline::uffd {

Registration registrationOf(int uffd, std::uint64_t address, std::uint64_t length) {
  // Low, since the kernel wants the end of what is to be copied below that of an address space too; 256 MiB, where no
  // sanitizer has its shadow. The kernel reads from the front, so what lies behind these bytes is never read.
  auto* const low = reinterpret_cast<void*>(1ull << 28);  // NOLINT(performance-no-int-to-ptr)
  static void* const unreadable =
      mmap(low, 2ul << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (unreadable == MAP_FAILED) return Registration::unknown;
  switch (copy(uffd, address, unreadable, length, Protect::no, Waiters::leave).outcome) {
    case Outcome::sourceLost:  // all else was right
    case Outcome::present:
    case Outcome::noMemory:
      return Registration::registered;
    case Outcome::rangeGone:
      return Registration::notRegistered;
    case Outcome::targetGone:
      return Registration::targetGone;
    case Outcome::unsupported:
      return Registration::otherPageSize;
    case Outcome::refused:
    case Outcome::done:
    case Outcome::partial:
      break;
  }
  return Registration::unknown;
}

bool registeredWith(int uffd, std::uint64_t start, std::uint64_t length) {
  // EBUSY where it is another's; for its own the kernel skips what has this mode already (fs/userfaultfd.c,
  // userfaultfd_register).
  uffdio_register request{};
  request.range = {start, length};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  return ioctl(uffd, UFFDIO_REGISTER, &request) == 0;
}

bool sameUserfaultfd(int a, int b) {
  struct stat first {
  }, second{};
  if (fstat(a, &first) != 0 || fstat(b, &second) != 0) return false;
  // Since Linux 5.12 each userfaultfd has an inode of its own (fs/userfaultfd.c); before, all had the same.
  if (first.st_dev != second.st_dev || first.st_ino != second.st_ino) return false;
  constexpr int FILES = 0;  // KCMP_FILE, include/uapi/linux/kcmp.h
  const pid_t self = getpid();
  const long order = syscall(SYS_kcmp, self, self, FILES, a, b);
  return order <= 0;  // an error: what the inode says is all there is
}

}  // namespace faultline::uffd
