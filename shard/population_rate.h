// How many bytes a shard may populate a second, all its restores together.
#pragma once

#include <cstdint>

#include "threads/mutex.h"

namespace faultline::shard {

// Any thread.
class PopulationRate {
 public:
  // 0: as many as there are.
  void limit(std::uint64_t bytesPerSecond);
  // So many bytes were populated; `now` in ns, as below. They are paid for by the time that passes before the next.
  void took(std::uint64_t bytes, std::uint64_t now);
  // ns until more may be populated; 0: now.
  std::uint64_t wait(std::uint64_t now) const;
  // Bytes that one worker may take on at once: what comes in a short while.
  std::uint64_t portion() const;

 private:
  mutable threads::Mutex mutex_;
  std::uint64_t limit_ GUARDED_BY(mutex_) = 0;
  std::uint64_t paidAt_ GUARDED_BY(mutex_) = 0;  // ns, when what was taken is paid for
};

}  // namespace faultline::shard
