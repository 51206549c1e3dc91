// The uses of userfaultfd that the kernel lets this process make, found out by making them.
#pragma once

#include <cstdint>

namespace faultline::uffd {

struct Abilities {
  enum class Faults {
    none,     // userfaultfds are not to be had: `error` says why
    ownOnly,  // only faults of user code are told, not those of system calls (UFFD_USER_MODE_ONLY)
    all,
  };
  Faults faults = Faults::none;
  bool byDevice = false;       // by /dev/userfaultfd; else by the system call
  int error = 0;               // errno of the system call, where `faults` is not `all`
  std::uint64_t features = 0;  // UFFD_FEATURE_* of the kernel; 0 where it does not tell
  bool populates =
      false;  // a page was registered, filled by UFFDIO_COPY and by UFFDIO_ZEROPAGE, and given back
  bool poisons = false;  // UFFDIO_POISON was done
};

// Makes a userfaultfd, and tries each call on memory of this process. Leaves nothing behind.
Abilities probe();

}  // namespace faultline::uffd
