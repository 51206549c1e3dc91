// Reads of the source that fail: in the middle, for a while, or for good.

#include <gtest/gtest.h>

#include <cerrno>

#include "shard/retry_queue.h"
#include "shard/source/read_progress.h"

namespace faultline::shard {
namespace {

using Next = ReadProgress::Next;

constexpr int PAGE = 4096, HUGE = 2 << 20;
constexpr std::uint64_t MS = 1'000'000, NOW = 1'000 * MS;

TEST(ReadProgress, AWholeReadEnds) {
  ReadProgress read{HUGE};
  EXPECT_EQ(read.after(HUGE), Next::ended);
}

TEST(ReadProgress, AShortReadGoesOnBehindWhatCame) {
  ReadProgress read{HUGE};
  EXPECT_EQ(read.after(PAGE), Next::readOn);
  EXPECT_EQ(read.done, static_cast<std::uint64_t>(PAGE));
  EXPECT_EQ(read.after(HUGE - PAGE), Next::ended);
}

// A read that meets an error behind its first page returns that page alone.
TEST(ReadProgress, AnErrorInTheMiddleIsThatError) {
  ReadProgress read{HUGE};
  read.after(PAGE);
  EXPECT_EQ(read.after(-EIO), Next::failed);
  EXPECT_EQ(read.error, EIO);
}

TEST(ReadProgress, TheEndOfTheFileInTheMiddleIsNoError) {
  ReadProgress read{HUGE};
  EXPECT_EQ(read.after(PAGE), Next::readOn);
  EXPECT_EQ(read.after(0), Next::failed);
  EXPECT_EQ(read.error, 0);
}

// When a fault with so many failed reads comes back.
std::uint64_t delayOf(std::uint32_t sourceFailures, std::uint32_t tries = 0) {
  RetryQueue queue;
  EXPECT_TRUE(queue.push({.tries = tries, .sourceFailures = sourceFailures}, NOW));
  return queue.nextDue().value_or(0) - NOW;
}

// Errors of a disk or a network path take their time to pass.
TEST(SourceFailures, HaveABackOffOfTheirOwn) {
  EXPECT_EQ(delayOf(1), 1 * MS);
  EXPECT_EQ(delayOf(2), 10 * MS);
  EXPECT_EQ(delayOf(3), 100 * MS);
  EXPECT_EQ(delayOf(1000), 100 * MS);
}

TEST(SourceFailures, AreWaitedForHoweverOftenItWasRefusedBefore) {
  EXPECT_EQ(delayOf(1, 20), 1 * MS);
}

TEST(SourceFailures, LeaveTheBackOffOfRefusalsAsItIs) {
  EXPECT_EQ(delayOf(0, 1), 1'000u);
  EXPECT_EQ(delayOf(0, 2), 2'000u);
  EXPECT_EQ(delayOf(0, 1000), 1 * MS);
}

}  // namespace
}  // namespace faultline::shard
