// Counters and latency histograms in the segment: written with relaxed atomics by the process that does the
// work, read by any process at any time, without a lock. `status` and the metrics report them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace faultline::shm {

using Counter = std::atomic<std::uint64_t>;

inline void count(Counter& counter, std::uint64_t by = 1) {
  counter.fetch_add(by, std::memory_order_relaxed);
}

// Durations in ns, in buckets of a quarter of a power of two (relative error at most 1/8).
class Histogram {
 public:
  static constexpr std::size_t BUCKETS = 160;  // up to 2^40 ns, some 18 minutes

  void record(std::uint64_t ns) {
    count(buckets_[bucketOf(ns)]);
    count(sum_, ns);
  }

  bool empty() const { return sum_.load(std::memory_order_relaxed) == 0; }

  static std::size_t bucketOf(std::uint64_t ns);
  // The upper bound of a bucket, in ns, exclusive.
  static std::uint64_t upperBound(std::size_t bucket);

  // A copy that does not change any more, to sum and to ask.
  struct Snapshot {
    std::uint64_t buckets[BUCKETS] = {};
    std::uint64_t sum = 0;  // ns

    void add(const Histogram& histogram);
    std::uint64_t samples() const;
    // The duration in ns below which `fraction` (0..1) of the samples lie; 0 where there are none.
    std::uint64_t quantile(double fraction) const;
  };

 private:
  Counter buckets_[BUCKETS];
  Counter sum_;
};

// Written by one shard, for one restore. Numbers of pages unless said otherwise.
struct alignas(128) ShardCounters {
  Counter faultsTaken;     // faults handed to the shard
  Counter copied;          // populated with source bytes
  Counter zeroed;          // missing in the tracker, zero in the source: zero page
  Counter zeroedRemoved;   // faults answered with zeros because the target had given the page up
  Counter alreadyPresent;  // EEXIST: only woken
  Counter refused;         // sections ended by EAGAIN, each retry counted
  Counter requeued;        // given back to the kernel with UFFDIO_WAKE
  Counter poisoned;
  Counter dropped;         // ENOENT: the range is gone
  Counter outOfMemory;     // ENOMEM, each retry counted
  Counter prefaulted;      // part of copied and zeroed: pages that no fault asked for
  Counter around;          // part of copied and zeroed: pages that came with a fault on a neighbour
  Counter coldReads;       // pages that had to wait for the source's disk
  Counter sourceBytes;     // bytes taken from the source
  Counter sourceErrors;    // failed reads of the source, each retry counted
  Counter slotsRecovered;  // EOWNERDEAD met by a worker on its own slot
  Histogram eventToDone;   // fault read from the uffd until its page was in place
  Histogram gateWait;      // a section's way into the read side
  Histogram source;        // staging of source bytes
  Histogram copy;          // the ioctl
  Counter firstDoneAt;     // ns, CLOCK_MONOTONIC: its first fault's page was in place; 0: none was
};

// A fault that was read at `readAt` has its page in place at `now`, both ns of CLOCK_MONOTONIC.
inline void countDone(ShardCounters& counters, std::uint64_t readAt, std::uint64_t now) {
  if (counters.firstDoneAt.load(std::memory_order_relaxed) == 0 && counters.eventToDone.empty()) {
    std::uint64_t none = 0;
    counters.firstDoneAt.compare_exchange_strong(none, now, std::memory_order_relaxed);
  }
  counters.eventToDone.record(now - readAt);
}

// Written by the coordinator, for one restore.
struct alignas(128) RestoreCounters {
  Counter batches;  // read()s that returned something
  Counter faults;   // fault messages
  Counter removes;  // REMOVE messages
  Counter removedPages;
  Counter replayed;        // messages found in the journal by a successor
  Counter fences;          // shards killed because they held the lock past its deadline
  Counter slotsRecovered;  // EOWNERDEAD met while draining
  Counter adoptions;       // coordinators that took over
  Counter wakes;           // times all waiting threads were woken after a death
  Counter outsideFaults;   // faults at addresses that no region covers
  Histogram drain;         // closing the gate and draining
  Histogram closed;        // gate closed until it opened again
  Counter readTimes;  // when faults were read, ns of process::nowNs(), the sum over all of them modulo 2^64
};

}  // namespace faultline::shm
