// States that a restore may come to, and those that it may not.

#include "coordinator/life.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

namespace faultline::coordinator {
namespace {

using Stage = Life::Stage;
using enum Life::Stage;

const std::vector<Stage> ALL{serving, paused, complete, finishing, failed, releasing, kept, departing, over};

// Every transition that there is, and no other.
const std::map<Stage, std::set<Stage>> MAY{
    {serving, {paused, complete, finishing, failed, releasing, over}},
    {paused, {serving, failed, releasing, over}},
    {complete, {finishing, failed, releasing, over}},
    {finishing, {complete, failed, releasing, over}},
    {failed, {releasing, over}},
    {releasing, {kept, departing, over}},
    {kept, {departing, over}},
    {departing, {over}},
    {over, {}},
};

// The shortest way there.
Life at(Stage stage) {
  Life life;
  switch (stage) {
    case serving:
      break;
    case failed:
      life.fail(rpc::EndReason::SEGMENT_DAMAGED, "damaged");
      break;
    case kept:
    case departing:
      life.become(releasing);
      [[fallthrough]];
    default:
      life.become(stage);
  }
  return life;
}

class Transition : public testing::TestWithParam<std::pair<Stage, Stage>> {
 public:
  static std::vector<std::pair<Stage, Stage>> all() {
    std::vector<std::pair<Stage, Stage>> pairs;
    for (const Stage from : ALL)
      for (const Stage to : ALL) pairs.emplace_back(from, to);
    return pairs;
  }
};

TEST_P(Transition, IsAllowedOrRefused) {
  const auto [from, to] = GetParam();
  const bool allowed = MAY.at(from).count(to) != 0;
  Life life = at(from);
  EXPECT_EQ(life.may(to), allowed);
  if (allowed) {
    life.become(to);
    EXPECT_EQ(life.stage(), to);
  } else {
    EXPECT_ANY_THROW(life.become(to));
    EXPECT_EQ(life.stage(), from);
  }
}
INSTANTIATE_TEST_SUITE_P(Each, Transition, testing::ValuesIn(Transition::all()), [](const auto& info) {
  return std::string(nameOf(info.param.first)) + "_" + nameOf(info.param.second);
});

TEST(Life, EveryStageHasAWayToTheEndAndNoneLeadsOutOfIt) {
  for (const Stage stage : ALL) EXPECT_EQ(Life::leads(stage, over), stage != over) << nameOf(stage);
}

TEST(Life, WhatItIsInTheMiddleOf) {
  for (const Stage stage : ALL) {
    const Life life = at(stage);
    const bool isServed = stage == serving || stage == paused || stage == complete || stage == finishing;
    EXPECT_EQ(life.served(), isServed) << nameOf(stage);
    EXPECT_EQ(life.failed(), stage == failed) << nameOf(stage);
    EXPECT_EQ(life.ending(), !isServed && stage != failed) << nameOf(stage);
    EXPECT_EQ(life.over(), stage == over) << nameOf(stage);
  }
}

TEST(Life, AFailureIsRememberedToTheEnd) {
  Life life = at(failed);
  life.ends(rpc::EndReason::TARGET_GONE, "the target has gone");
  life.misses(3);
  life.become(releasing);
  EXPECT_TRUE(life.failed());
  EXPECT_EQ(life.phase(), rpc::Phase::FAILED);
  life.become(over);
  EXPECT_EQ(life.end().reason, rpc::EndReason::SEGMENT_DAMAGED);
  EXPECT_EQ(life.end().text, "the target has gone; it had failed: damaged");
  EXPECT_EQ(life.end().missing, 3u);
}

TEST(Life, AKilledTargetIsToldInsteadOfAFailure) {
  Life life = at(failed);
  life.ends(rpc::EndReason::TARGET_KILLED, "killed");
  EXPECT_EQ(life.end().reason, rpc::EndReason::TARGET_KILLED);
  EXPECT_EQ(life.end().text, "killed");
}

TEST(Life, AFailureThatComesTooLateIsRefusedAndNotRemembered) {
  Life life = at(releasing);
  EXPECT_ANY_THROW(life.fail(rpc::EndReason::SERVER_FAILED, "late"));
  EXPECT_FALSE(life.failed());
}

// Operators are told what it was before it began to go.
TEST(Life, OnItsWayOutItsPhaseStays) {
  for (const auto& [stage, phase] : std::map<Stage, rpc::Phase>{{serving, rpc::Phase::SERVING},
                                                                {paused, rpc::Phase::PAUSED},
                                                                {complete, rpc::Phase::COMPLETE},
                                                                {finishing, rpc::Phase::SERVING}}) {
    Life life = at(stage);
    EXPECT_EQ(life.phase(), phase) << nameOf(stage);
    life.become(releasing);
    EXPECT_EQ(life.phase(), phase) << nameOf(stage);
  }
}

}  // namespace
}  // namespace faultline::coordinator
