// The rate of background population over all shards: each that populates gets an equal share of what the operator allows.
#pragma once

#include <cstdint>
#include <map>

#include "coordinator/shard_pool.h"

namespace faultline::coordinator {

// Loop thread only. The pool must outlive it.
class PopulationRates {
 public:
  // `bytesPerSecond`: of all shards together; 0: as fast as they can.
  PopulationRates(ShardPool& pool, std::uint64_t bytesPerSecond) : pool_(pool), limit_(bytesPerSecond) {}

  // `member`, a population, has runs in the shards whose bits are set, or asks them for one after this call: they know
  // their share before it.
  void runsIn(const void* member, std::uint64_t shards);
  // From now on all go as fast as they can.
  void unlimited();

 private:
  std::uint64_t all() const;
  void tell(std::uint64_t shards, std::uint64_t share);

  ShardPool& pool_;
  std::uint64_t limit_;
  std::map<const void*, std::uint64_t> runs_;  // shards as bits, by member; none is 0
};

}  // namespace faultline::coordinator
