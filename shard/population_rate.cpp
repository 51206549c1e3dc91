#include "shard/population_rate.h"

#include <algorithm>

namespace faultline::shard {

namespace {

constexpr std::uint64_t SECOND = 1'000'000'000;  // ns
constexpr std::uint64_t CREDIT = SECOND / 50;    // ns that may pass unused and are still made up for
constexpr std::uint64_t PORTIONS_A_SECOND = 50;  // of one worker
constexpr std::uint64_t ANY = ~std::uint64_t{0};

}  // namespace

void PopulationRate::limit(std::uint64_t bytesPerSecond) {
  const threads::Lock lock(mutex_);
  limit_ = bytesPerSecond;
  if (limit_ == 0) paidAt_ = 0;
}

void PopulationRate::took(std::uint64_t bytes, std::uint64_t now) {
  const threads::Lock lock(mutex_);
  if (limit_ == 0) return;
  const double seconds = static_cast<double>(bytes) / static_cast<double>(limit_);
  paidAt_ = std::max(paidAt_, now - std::min(now, CREDIT)) + static_cast<std::uint64_t>(seconds * SECOND);
}

std::uint64_t PopulationRate::wait(std::uint64_t now) const {
  const threads::Lock lock(mutex_);
  return paidAt_ > now ? paidAt_ - now : 0;
}

std::uint64_t PopulationRate::portion() const {
  const threads::Lock lock(mutex_);
  return limit_ == 0 ? ANY : limit_ / PORTIONS_A_SECOND;
}

}  // namespace faultline::shard
