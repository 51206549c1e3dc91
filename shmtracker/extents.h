// The owners of extents. Ownership decides which shard is asked, never which may commit: every commit is
// checked under the lock, so a request that arrives at a former owner is still served rightly.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "shmtracker/layout.h"

namespace faultline::shm {

// A view of the extent table in the segment. Readers need no lock: one owner is one aligned 16-bit word.
class Extents {
 public:
  explicit Extents(std::span<ExtentOwner> owners) : owners_(owners) {}

  std::uint32_t count() const { return static_cast<std::uint32_t>(owners_.size()); }
  // Always < shards, whatever the memory holds: a damaged owner may be any shard.
  std::uint32_t owner(std::uint32_t extent, std::uint32_t shards) const {
    return owners_[extent].load(std::memory_order_relaxed) % shards;
  }
  // How many extents each shard owns. Looks at all of them.
  using Shares = std::array<std::uint32_t, MAX_SHARDS>;
  Shares shares(std::uint32_t shards) const;
  // Deals the extents out in turn, so that neighbours have different owners: to `owners` (1 .. shards) of the
  // `shards` shards, from `first` on, round.
  void deal(std::uint32_t shards, std::uint32_t owners, std::uint32_t first);
  // Deals the extents out to all `shards` shards.
  void deal(std::uint32_t shards) { deal(shards, shards, 0); }

 private:
  std::span<ExtentOwner> owners_;
};

}  // namespace faultline::shm
