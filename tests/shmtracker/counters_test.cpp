#include "shmtracker/counters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

namespace faultline::shm {
namespace {

TEST(Histogram, BucketsAreMonotoneAndHoldTheirBounds) {
  for (std::uint64_t ns = 0; ns < 100'000; ns++) {
    const std::size_t bucket = Histogram::bucketOf(ns);
    ASSERT_LT(ns, Histogram::upperBound(bucket));
    ASSERT_TRUE(bucket == 0 || ns >= Histogram::upperBound(bucket - 1));
  }
  EXPECT_EQ(Histogram::bucketOf(~0ull), Histogram::BUCKETS - 1);
}

TEST(Histogram, QuantilesAreWithinAnEighthAboveTheTruth) {
  auto histogram = std::make_unique<Histogram>();
  std::mt19937_64 random(1);
  std::vector<std::uint64_t> values;
  for (unsigned i = 0; i < 10'000; i++) {
    values.push_back(random() % (1ull << (10 + random() % 20)));
    histogram->record(values.back());
  }
  std::sort(values.begin(), values.end());
  Histogram::Snapshot snapshot;
  snapshot.add(*histogram);
  EXPECT_EQ(snapshot.samples(), values.size());
  for (const double fraction : {0.1, 0.5, 0.9, 0.99, 0.999}) {
    const auto exact = values[static_cast<std::size_t>(fraction * static_cast<double>(values.size())) - 1];
    const auto told = snapshot.quantile(fraction);
    EXPECT_GE(told, exact);
    EXPECT_LE(static_cast<double>(told), static_cast<double>(exact) * 1.26 + 1);
  }
}

}  // namespace
}  // namespace faultline::shm
