#include "shmtracker/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <string>

namespace faultline::shm {
namespace {

using testing::HasSubstr;

std::string line(const std::string& member, std::size_t at, std::size_t bytes) {
  return member + ' ' + std::to_string(at) + ' ' + std::to_string(bytes) + '\n';
}

// A seventh flag moves the names behind it, and Immutable stays as large: there is padding at its end.
TEST(Layout, ThePlacesOfNamesBehindThePolicyAreAmongTheFacts) {
  EXPECT_THAT(layoutFacts(), HasSubstr(line("Policy", sizeof(Policy), alignof(Policy))));
  EXPECT_THAT(layoutFacts(), HasSubstr(line("Immutable.name", offsetof(Immutable, name), 64)));
  EXPECT_THAT(layoutFacts(), HasSubstr(line("Immutable.sourceName", offsetof(Immutable, sourceName), 256)));
}

// Counters are padded up to 128 bytes: a further one leaves them as large.
TEST(Layout, ThePlacesOfTheLastCountersAreAmongTheFacts) {
  EXPECT_THAT(layoutFacts(),
              HasSubstr(line("ShardCounters.firstDoneAt", offsetof(ShardCounters, firstDoneAt), 8)));
  EXPECT_THAT(layoutFacts(),
              HasSubstr(line("RestoreCounters.readTimes", offsetof(RestoreCounters, readTimes), 8)));
}

TEST(Layout, AMemberAtAnotherPlaceMakesAnotherHash) {
  const std::string facts = layoutFacts();
  const std::string name = line("Immutable.name", offsetof(Immutable, name), 64);
  std::string moved = facts;
  moved.replace(moved.find(name), name.size(), line("Immutable.name", offsetof(Immutable, name) + 4, 64));
  EXPECT_EQ(layoutHash(), crc32c(facts.data(), facts.size()));
  EXPECT_NE(layoutHash(), crc32c(moved.data(), moved.size()));
}

}  // namespace
}  // namespace faultline::shm
