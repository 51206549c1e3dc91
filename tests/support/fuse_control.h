// State that a test shares with the file system that it runs, in memory of both processes.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace faultline::test {

struct FuseControl {
  static constexpr std::uint64_t NOWHERE = ~0ull, EVERYWHERE = ~0ull - 1;

  std::atomic<std::uint32_t> version{0};  // version of the fields below that a test sets; a futex
  std::atomic<std::uint64_t> stalled{NOWHERE};
  std::atomic<std::uint64_t> failing{NOWHERE};
  std::atomic<int> error{0};
  // Set by the file system.
  std::atomic<std::uint32_t> reads{0}, waiting{0}, failed{0};

  static bool touches(std::uint64_t where, std::uint64_t offset, std::uint64_t size) {
    return where == EVERYWHERE || (where != NOWHERE && where >= offset && where < offset + size);
  }
  bool slows(std::uint64_t offset, std::uint64_t size) const { return touches(stalled, offset, size); }
  int errorOf(std::uint64_t offset, std::uint64_t size) const {
    return touches(failing, offset, size) ? error.load() : 0;
  }
  void change() {
    version++;
    syscall(SYS_futex, &version, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }
  // Waits until a test has changed something, at most 20 ms: a change may come just before the wait.
  void awaitChange() {
    const timespec most{0, 20'000'000};
    syscall(SYS_futex, &version, FUTEX_WAIT, version.load(), &most, nullptr, 0);
  }
};

}  // namespace faultline::test
