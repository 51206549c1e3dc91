#include "shmtracker/extents.h"

namespace faultline::shm {

void Extents::deal(std::uint32_t shards) {
  for (std::size_t i = 0; i < owners_.size(); i++)
    owners_[i].store(static_cast<std::uint16_t>(i % shards), std::memory_order_relaxed);
}

}  // namespace faultline::shm
