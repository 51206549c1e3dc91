// Restores are populated a few at once, in the order of their coming.

#include "coordinator/population_turns.h"

#include <gtest/gtest.h>

#include <string>

namespace faultline::coordinator {
namespace {

struct Restore final : PopulationTurns::Member {
  explicit Restore(char name, std::string& came) : name(name), came(came) {}
  void turnCame() override { came += name; }
  const char name;
  std::string& came;
};

struct Turns : testing::Test {
  std::string came;
  Restore a{'a', came}, b{'b', came}, c{'c', came}, d{'d', came};
};

TEST_F(Turns, WithoutALimitEachHasItsTurnAtOnce) {
  PopulationTurns turns(0);
  for (Restore* each : {&a, &b, &c, &d}) EXPECT_TRUE(turns.ask(*each));
}

TEST_F(Turns, AreGivenInTheOrderOfTheirComing) {
  PopulationTurns turns(2);
  EXPECT_TRUE(turns.ask(a));
  EXPECT_TRUE(turns.ask(b));
  EXPECT_FALSE(turns.ask(d));
  EXPECT_FALSE(turns.ask(c));
  EXPECT_EQ(turns.before(d), 0u);
  EXPECT_EQ(turns.before(c), 1u);
  turns.leave(b);
  EXPECT_EQ(came, "d");
  turns.leave(a);
  EXPECT_EQ(came, "dc");
}

TEST_F(Turns, OneThatAsksAgainKeepsItsPlace) {
  PopulationTurns turns(1);
  EXPECT_TRUE(turns.ask(a));
  EXPECT_TRUE(turns.ask(a));
  EXPECT_FALSE(turns.ask(b));
  EXPECT_FALSE(turns.ask(c));
  EXPECT_FALSE(turns.ask(b));
  turns.leave(a);
  EXPECT_EQ(came, "b");
}

TEST_F(Turns, OneThatGivesUpLetsTheNextPass) {
  PopulationTurns turns(1);
  EXPECT_TRUE(turns.ask(a));
  EXPECT_FALSE(turns.ask(b));
  EXPECT_FALSE(turns.ask(c));
  turns.leave(b);
  EXPECT_EQ(came, "");
  turns.leave(a);
  EXPECT_EQ(came, "c");
}

TEST_F(Turns, OnceForAllEachThatWaitsHasIt) {
  PopulationTurns turns(1);
  EXPECT_TRUE(turns.ask(a));
  EXPECT_FALSE(turns.ask(b));
  EXPECT_FALSE(turns.ask(c));
  turns.forAll();
  EXPECT_EQ(came, "bc");
  EXPECT_TRUE(turns.ask(d));
}

}  // namespace
}  // namespace faultline::coordinator
