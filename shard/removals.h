// Whether the target gives memory up at present. A removal waits for the sections that it meets, so they are short then;
// where none comes, long ones cost nothing.
#pragma once

#include <atomic>
#include <cstdint>

namespace faultline::shard {

// Of one restore. Any thread: two that race may judge a moment differently, no more.
class Removals {
 public:
  static constexpr std::uint64_t LATELY = 20'000'000;  // ns: removals come in bursts, and in streams

  // `removes`: removals of the restore so far; `now` in ns. True where one has come since the last call, or a call said so
  // less than LATELY ago.
  bool lately(std::uint64_t removes, std::uint64_t now) {
    if (seen_.load(std::memory_order_relaxed) != removes) {
      until_.store(now + LATELY, std::memory_order_relaxed);
      seen_.store(removes, std::memory_order_relaxed);
    }
    return now < until_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t> seen_{0};
  std::atomic<std::uint64_t> until_{0};  // ns
};

}  // namespace faultline::shard
