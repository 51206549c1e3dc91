// The memory that a userfaultfd is registered for, told without changing anything, and which userfaultfd it is.
//
// All functions may be called from any thread of any process that has the fd; none allocates or throws.
#pragma once

#include <cstdint>

namespace faultline::uffd {

// The kernel's answer for [address, address + length), aligned to the size of its pages: of one page or of many. Changes
// nothing: asks for a copy from an address that cannot be read, which the kernel comes to only after it has looked at the
// mapping (mm/userfaultfd.c, mfill_atomic). The answer tells neither which userfaultfd the memory is registered with nor for
// which kind of fault. Waits for the target's mmap_lock.
enum class Registration {
  registered,     // a single mapping holds all of it, and is registered
  notRegistered,  // no such mapping: a single page is registered no more; of a longer range any part may be
  otherPageSize,  // registered, but its pages have another size; or nothing can be put in place there
  targetGone,
  unknown,  // an event of this uffd is in flight, and nothing is told before that is read
};
Registration registrationOf(int uffd, std::uint64_t address, std::uint64_t length);

// Whether a mapping that is registered for missing faults is registered with this userfaultfd and no other. Asks to
// register it once more, which changes nothing then: not for what may not be registered at all.
bool registeredWith(int uffd, std::uint64_t start, std::uint64_t length);

// True where both fds are of one userfaultfd, whichever process they came from.
bool sameUserfaultfd(int a, int b);

}  // namespace faultline::uffd
