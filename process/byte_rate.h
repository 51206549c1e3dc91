// How many bytes may be brought a second, by all who share the rate together: populations of a shard, reads of a fetcher.
#pragma once

#include <cstdint>

#include "threads/mutex.h"

namespace faultline::process {

// Any thread.
class ByteRate {
 public:
  // 0: as many as there are.
  void limit(std::uint64_t bytesPerSecond);
  // Counts bytes that were brought; `now` in ns, as below. The time that passes before the next pays for them.
  void took(std::uint64_t bytes, std::uint64_t now);
  // Counts them as took() and returns 0 where they may be brought now. If not, nothing changes; returns what wait() does.
  std::uint64_t tryTake(std::uint64_t bytes, std::uint64_t now);
  // Takes back bytes that were taken and were not brought after all.
  void gaveBack(std::uint64_t bytes);
  // ns until more may be brought; 0: now.
  std::uint64_t wait(std::uint64_t now) const;
  // Bytes that one worker may take on at once: what comes in a short while.
  std::uint64_t portion() const;

 private:
  std::uint64_t timeOf(std::uint64_t bytes) const REQUIRES(mutex_);

  mutable threads::Mutex mutex_;
  std::uint64_t limit_ GUARDED_BY(mutex_) = 0;
  std::uint64_t paidAt_ GUARDED_BY(mutex_) = 0;  // ns, when what was taken is paid for
};

}  // namespace faultline::process
