// Hands the faults of one read() to the shards that own their pages: one hand-over a shard a batch.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <vector>

#include "coordinator/cpu_latency.h"
#include "coordinator/shard_pool.h"
#include "coordinator/touch_recorder.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only. Allocates nothing after construction.
class FaultRouter {
 public:
  // `latency` may be null: CPUs wake as the machine is set up.
  FaultRouter(ShardPool& pool, shm::Segment& segment, CpuLatency* latency);

  // The shards that have the restore attached. Faults for others are left to the wake that follows their
  // attach.
  void setAttached(std::uint32_t shard, bool attached) { attached_[shard] = attached; }
  bool attached(std::uint32_t shard) const { return attached_[shard]; }

  // From now on first touches are noted there; borrowed.
  void record(TouchRecorder& touches) { touches_ = &touches; }

  void add(shm::PageIndex page);
  // Hands out what was added. `readAt`: ns, CLOCK_MONOTONIC.
  void handOut(std::uint64_t readAt);

 private:
  ShardPool& pool_;
  shm::Segment& segment_;
  CpuLatency* const latency_;
  TouchRecorder* touches_ = nullptr;
  std::array<bool, shm::MAX_SHARDS> attached_{};
  std::vector<std::uint64_t> faults_;  // faults of one read(), each with the shard that owns its page
};

}  // namespace faultline::coordinator
