// Readers share a loop: one that has faults alone reads on, several take turns.

#include "coordinator/reading_turns.h"

#include <gtest/gtest.h>

namespace faultline::coordinator {
namespace {

TEST(ReadingTurns, WhoHasFaultsAloneReadsOn) {
  ReadingTurns turns;
  const int a = 0;
  EXPECT_EQ(turns.batches(&a), 1u) << "nobody had any yet";
  turns.had(&a);
  EXPECT_GT(turns.batches(&a), 1u);
}

TEST(ReadingTurns, SeveralReadABatchEach) {
  ReadingTurns turns;
  const int a = 0, b = 0;
  for (int round = 0; round < 3; round++) {
    EXPECT_EQ(turns.batches(&a), 1u);
    turns.had(&a);
    EXPECT_EQ(turns.batches(&b), 1u);
    turns.had(&b);
  }
}

TEST(ReadingTurns, WhoFindsNothingTakesNoTurnAway) {
  ReadingTurns turns;
  const int a = 0, idle = 0;
  turns.had(&a);
  EXPECT_EQ(turns.batches(&idle), 1u);
  EXPECT_GT(turns.batches(&a), 1u);
}

}  // namespace
}  // namespace faultline::coordinator
