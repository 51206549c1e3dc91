// Latencies, counted by size: constant memory, quantiles to within 0.4 %.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace faultline::target {

// A histogram of nanoseconds. A power of two is cut into 128 equal buckets; below 256 ns every bucket is one
// nanosecond. Not safe for several threads at a time.
class LatencyHistogram {
 public:
  void add(std::uint64_t ns) {
    buckets_[indexOf(ns)]++;
    count_++;
    max_ = std::max(max_, ns);
  }

  void add(const LatencyHistogram& other) {
    for (std::size_t i = 0; i < buckets_.size(); i++) buckets_[i] += other.buckets_[i];
    count_ += other.count_;
    max_ = std::max(max_, other.max_);
  }

  std::uint64_t count() const { return count_; }
  std::uint64_t max() const { return max_; }

  // The value that `fraction` (0 to 1) of the values do not exceed; 0 where there are none.
  std::uint64_t quantile(double fraction) const {
    const auto rank = static_cast<std::uint64_t>(std::ceil(fraction * static_cast<double>(count_)));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < buckets_.size(); i++) {
      seen += buckets_[i];
      if (seen >= rank && seen > 0) return std::min(middleOf(i), max_);
    }
    return 0;
  }

 private:
  static constexpr int SUB_BITS = 7;
  static constexpr std::size_t SUB = 1 << SUB_BITS;

  static std::size_t indexOf(std::uint64_t ns) {
    if (ns < 2 * SUB) return static_cast<std::size_t>(ns);
    const int shift = std::bit_width(ns) - SUB_BITS - 1;
    return static_cast<std::size_t>(shift) * SUB + static_cast<std::size_t>(ns >> shift);
  }
  static std::uint64_t middleOf(std::size_t index) {
    if (index < 2 * SUB) return index;
    const std::size_t shift = index / SUB - 1;
    return ((index % SUB + SUB) << shift) + ((std::uint64_t{1} << shift) >> 1);
  }

  std::array<std::uint64_t, (64 - SUB_BITS + 1) * SUB> buckets_{};
  std::uint64_t count_ = 0, max_ = 0;
};

}  // namespace faultline::target
