#include "shmtracker/extents.h"

namespace faultline::shm {

Extents::Shares Extents::shares(std::uint32_t shards) const {
  Shares shares{};
  for (std::uint32_t extent = 0; extent < count(); extent++) shares[owner(extent, shards)]++;
  return shares;
}

void Extents::deal(std::uint32_t shards, std::uint32_t owners, std::uint32_t first) {
  for (std::size_t i = 0; i < owners_.size(); i++)
    owners_[i].store(static_cast<std::uint16_t>((first + i % owners) % shards), std::memory_order_relaxed);
}

}  // namespace faultline::shm
