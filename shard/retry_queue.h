// Pages that were refused (EAGAIN, ENOMEM, a source that failed once) and have to come back through the lock.
//
// The kernel does not tell when a refusal ends, so each page comes back after a back-off of its own that
// doubles from 1 us to 1 ms: no hot loop, and no help from the target. Holds the page, never the decision.
// Errors of a disk or a network path take longer to pass: 1, 10 and 100 ms.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "shard/fault.h"

namespace faultline::shard {

// For one thread. Never allocates after construction.
class RetryQueue {
 public:
  static constexpr std::size_t CAPACITY = 4096;
  static constexpr std::uint64_t FIRST_DELAY = 1'000;              // ns
  static constexpr std::uint64_t LAST_DELAY = 1'000'000;           // ns
  static constexpr std::uint64_t FIRST_SOURCE_DELAY = 1'000'000;   // ns
  static constexpr std::uint64_t LAST_SOURCE_DELAY = 100'000'000;  // ns

  explicit RetryQueue(std::size_t capacity = CAPACITY) : capacity_(capacity) { entries_.reserve(capacity); }

  // false: full, the caller gives the fault back to the kernel.
  bool push(const Fault& fault, std::uint64_t now);
  // A fault whose time has come.
  std::optional<Fault> popDue(std::uint64_t now);
  // When the next is due; nothing while empty.
  std::optional<std::uint64_t> nextDue() const;
  // Forgets every fault of a restore.
  void forget(const Attachment* restore);

 private:
  struct Entry {
    std::uint64_t due;
    Fault fault;
  };
  const std::size_t capacity_;
  std::vector<Entry> entries_;  // a heap, earliest first
};

}  // namespace faultline::shard
