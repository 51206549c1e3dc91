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
  // So many bytes were brought; `now` in ns, as below. They are paid for by the time that passes before the next.
  void took(std::uint64_t bytes, std::uint64_t now);
  // The same where it may be brought now; 0. Else nothing changes, and it answers what wait() does.
  std::uint64_t tryTake(std::uint64_t bytes, std::uint64_t now);
  // So many of what was taken were not brought after all.
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
