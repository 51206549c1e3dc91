// read(2) of a userfaultfd that never waits, whatever the flags of the open file are.
//
// The target has the same open file: where it clears O_NONBLOCK, our read() waits for its next fault.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>

namespace faultline::shm {

// As read(2) of a non-blocking fd: -1 and EAGAIN where nothing is pending. By preadv2(RWF_NOWAIT), which a
// userfaultfd takes since Linux 6.10 (fs/userfaultfd.c, userfaultfd_read_iter); before, by readBounded().
// Thread-safe.
ssize_t readNow(int fd, void* to, std::size_t bytes);

// The longest that readBounded() waits, and that only where another process clears O_NONBLOCK at the very
// moment.
inline constexpr std::chrono::milliseconds READ_BOUND{50};

// For kernels without that: sets O_NONBLOCK where it is not set, reads, and has a timer of this thread end a
// read() that waits all the same. Takes SIGRTMAX - 1 for it, in the whole process.
ssize_t readBounded(int fd, void* to, std::size_t bytes);

}  // namespace faultline::shm
