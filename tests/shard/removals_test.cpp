// Whether a target gives memory up at present.

#include "shard/removals.h"

#include <gtest/gtest.h>

namespace faultline::shard {
namespace {

constexpr std::uint64_t NOW = 1'000'000'000;  // ns

TEST(LateRemovals, AreNoneBeforeTheFirst) {
  Removals removals;
  EXPECT_FALSE(removals.lately(0, NOW));
}

TEST(LateRemovals, AreThoseThatCameSinceTheLastLook) {
  Removals removals;
  removals.lately(3, NOW);
  EXPECT_TRUE(removals.lately(4, NOW + 5 * Removals::LATELY));
}

TEST(LateRemovals, AreOverSomeTimeAfterTheLast) {
  Removals removals;
  EXPECT_TRUE(removals.lately(3, NOW));
  EXPECT_TRUE(removals.lately(3, NOW + Removals::LATELY - 1));
  EXPECT_FALSE(removals.lately(3, NOW + Removals::LATELY));
}

}  // namespace
}  // namespace faultline::shard
