#include "coordinator/population_rates.h"

#include <algorithm>
#include <bit>

namespace faultline::coordinator {

static_assert(shm::MAX_SHARDS <= 64);

std::uint64_t PopulationRates::all() const {
  std::uint64_t shards = 0;
  for (const auto& [member, its] : runs_) shards |= its;
  return shards;
}

void PopulationRates::runsIn(const void* member, std::uint64_t shards) {
  const std::uint64_t before = all();
  const auto known = runs_.find(member);
  const std::uint64_t added = shards & ~(known == runs_.end() ? 0 : known->second);
  if (shards == 0)
    runs_.erase(member);
  else
    runs_[member] = shards;
  const std::uint64_t now = all();
  const auto parts = static_cast<std::uint64_t>(std::popcount(now));
  if (limit_ == 0)
    tell(added, 0);  // a coordinator before may have told it otherwise
  else
    tell(std::popcount(before) == std::popcount(now) ? added : now,
         std::max<std::uint64_t>(1, limit_ / std::max<std::uint64_t>(1, parts)));
}

void PopulationRates::unlimited() {
  limit_ = 0;
  tell(all(), 0);
}

void PopulationRates::tell(std::uint64_t shards, std::uint64_t share) {
  for (std::uint32_t i = 0; i < shm::MAX_SHARDS; i++) {
    ShardHandle* shard = (shards >> i & 1) != 0 ? pool_.process(i) : nullptr;
    if (shard == nullptr) continue;
    auto request = shard->rpc().populateAtMostRequest();
    request.setBytesPerSecond(share);
    request.send().detach([](kj::Exception&&) {});
  }
}

}  // namespace faultline::coordinator
