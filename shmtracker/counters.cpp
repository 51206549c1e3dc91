#include "shmtracker/counters.h"

#include <bit>
#include <cmath>

namespace faultline::shm {

// Below 4 ns a bucket a nanosecond; above, four to a power of two.
std::size_t Histogram::bucketOf(std::uint64_t ns) {
  if (ns < 4) return ns;
  const unsigned exponent = std::bit_width(ns) - 1;
  const std::size_t bucket = std::size_t{exponent - 1} * 4 + ((ns >> (exponent - 2)) & 3);
  return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

std::uint64_t Histogram::upperBound(std::size_t bucket) {
  if (bucket < 4) return bucket + 1;
  const unsigned exponent = bucket / 4 + 1;
  return (4 + bucket % 4 + 1) * (1ull << (exponent - 2));
}

void Histogram::Snapshot::add(const Histogram& histogram) {
  for (std::size_t i = 0; i < BUCKETS; i++)
    buckets[i] += histogram.buckets_[i].load(std::memory_order_relaxed);
  sum += histogram.sum_.load(std::memory_order_relaxed);
}

std::uint64_t Histogram::Snapshot::samples() const {
  std::uint64_t total = 0;
  for (auto n : buckets) total += n;
  return total;
}

std::uint64_t Histogram::Snapshot::quantile(double fraction) const {
  const std::uint64_t total = samples();
  if (total == 0) return 0;
  const auto wanted = static_cast<std::uint64_t>(std::ceil(fraction * static_cast<double>(total)));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < BUCKETS; i++) {
    seen += buckets[i];
    if (seen >= wanted && seen > 0) return upperBound(i);
  }
  return upperBound(BUCKETS - 1);
}

}  // namespace faultline::shm
