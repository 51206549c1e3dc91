// The userfaultfd ioctls that a page server needs, each with its answer as a value.
//
// The kernel's answers here are normal work, not errors: see ioctl_userfaultfd(2), fs/userfaultfd.c and
// mm/userfaultfd.c. All functions may be called from any thread of any process that has the fd; none
// allocates or throws. Addresses and lengths are in bytes, aligned to the page size of the range.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdint>
#include <optional>
#include <string>

namespace faultline::uffd {

enum class Outcome {
  done,         // all of it
  partial,      // some of it (Result::bytes), then EAGAIN or a page that was there: go on behind it
  refused,      // EAGAIN, nothing done: an event of this uffd is in flight
  present,      // EEXIST: the first page is there already. The kernel wakes no thread: wake()
  rangeGone,    // ENOENT: no registered range there any more
  targetGone,   // ESRCH: the address space is gone
  noMemory,     // ENOMEM
  sourceLost,   // EFAULT: the source bytes could not be read
  unsupported,  // EINVAL, ENOTTY or such: this kernel or range can't
};

struct [[nodiscard]] Result {
  Outcome outcome;
  std::uint64_t bytes = 0;  // done by this call
  int error = 0;            // errno, 0 for done
};

// UFFDIO_POISON, as include/uapi/linux/userfaultfd.h of Linux 6.6 and later has it; Debian 12's headers end
// at 6.1.
struct UffdioPoison {
  uffdio_range range;
  std::uint64_t mode;
  std::int64_t updated;
};
inline constexpr unsigned long POISON_REQUEST = _IOWR(UFFDIO, 0x08, UffdioPoison);

// UFFD_FEATURE_WP_ASYNC, as include/uapi/linux/userfaultfd.h of Linux 6.7 and later has it: the target tracks its
// writes through the same registration.
inline constexpr std::uint64_t FEATURE_WP_ASYNC = 1ull << 15;

// Whether a page comes write-protected, for targets that track dirty pages with WP (UFFDIO_COPY_MODE_WP).
enum class Protect { no, yes };

// Whether the call wakes the threads that wait for the pages, or leaves that to wake().
enum class Waiters { wake, leave };

// Populates [to, to + length) with the bytes at `from`.
Result copy(int uffd, std::uint64_t to, const void* from, std::uint64_t length, Protect protect,
            Waiters waiters);
// Populates with the shared zero page. Not for hugetlb ranges.
Result zero(int uffd, std::uint64_t to, std::uint64_t length, Waiters waiters);
// Makes every access raise SIGBUS (Linux 6.6 and later), and wakes.
Result poison(int uffd, std::uint64_t to, std::uint64_t length);
// Makes every thread that waits in the range fault again. errno, or 0.
int wake(int uffd, std::uint64_t start, std::uint64_t length);
// Makes every thread that waits in any range of the uffd, known or not, fault again. errno, or 0.
int wakeAll(int uffd);
// Takes the range back from the uffd: its threads go on, missing pages read as zeros. errno, or 0.
int unregister(int uffd, std::uint64_t start, std::uint64_t length);
// Lets a thread go that waits for write protection to end. errno, or 0.
int unprotect(int uffd, std::uint64_t start, std::uint64_t length);

// True while a REMOVE (or another non-fault event) of this uffd is queued, or its caller has not run on yet.
// Consumes nothing: an all-zero UFFDIO_COPY answers EAGAIN then, and EINVAL otherwise.
bool eventInFlight(int uffd);

// Threads that wait for a page: those whose fault is unread, and those that are being answered. From the fd's
// fdinfo (fs/userfaultfd.c, userfaultfd_show_fdinfo); nothing where that cannot be read.
std::optional<std::uint64_t> waitingThreads(int uffd);

// True where `fd` is a userfaultfd.
bool isUserfaultfd(int fd);

}  // namespace faultline::uffd
