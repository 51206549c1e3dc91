// What a userfaultfd is registered for, told without changing anything, and which userfaultfd it is.
//
// All functions may be called from any thread of any process that has the fd; none allocates or throws.
#pragma once

#include <cstdint>

namespace faultline::uffd {

// What the kernel says of the page at `address`, a multiple of `pageSize`. Changes nothing: asks for a copy
// from an address that cannot be read, which the kernel comes to only after it has looked at the mapping (mm/userfaultfd.c,
// mfill_atomic). It says neither which userfaultfd the page is registered with nor for which kind of fault.
enum class Registration {
  registered,
  notRegistered,
  otherPageSize,  // registered, but its pages have another size; or nothing can be put in place there
  targetGone,
  unknown,  // an event of this uffd is in flight, and nothing is told before that is read
};
Registration registrationOf(int uffd, std::uint64_t address, std::uint64_t pageSize);

// True where both fds are of one userfaultfd, whichever process they came from.
bool sameUserfaultfd(int a, int b);

// Maps the page that the page cache has already, for a fault that was registered with
// UFFDIO_REGISTER_MODE_MINOR (UFFDIO_CONTINUE, Linux 5.13 and later), and wakes. errno, or 0.
int mapCached(int uffd, std::uint64_t start, std::uint64_t length);

}  // namespace faultline::uffd
