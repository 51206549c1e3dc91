// Targets that are restored from a stack of layers: what they see is the flattened file, whatever dies.

#include <gtest/gtest.h>
#include <signal.h>

#include "tests/recovery/recovery_test.h"
#include "tests/support/stack.h"

namespace faultline::test {
namespace {

class Layers : public BothPageSizes {
 protected:
  std::uint64_t bytes() const { return pageSize() == SMALL ? 4u << 20 : 8u << 20; }
};
BOTH_PAGE_SIZES(Layers);

ServerOptions serving(Stack& stack, ServerOptions options = {}) {
  options.memory = stack.top().path();
  for (const std::string& argument : stack.over()) options.more.push_back(argument);
  return options;
}

TEST_P(Layers, DataZerosAndHolesAreWhatTheySay) {
  Stack stack(bytes(), 3);
  stack.hole(40, 8);  // of the lowest: zero
  stack.hole(60, 8);
  stack.data(1, 10, 4);
  stack.zeros(1, 20, 4);  // hides the base
  stack.data(1, 30, 4);
  stack.data(0, 12, 4);   // half over the middle layer's
  stack.zeros(0, 31, 2);  // hides the middle layer's
  stack.data(0, 62, 2);   // in a hole of all below
  Server server(stack.shown(), serving(stack));
  Target target(stack.shown(), server.socket(), pageSize());
  auto restore = server.restore();
  expectContent(target, {});
  const auto paths = stack.paths();
  EXPECT_STREQ(server.wait(restore.infoRequest().send()).getInfo().getSourceName().cStr(),
               (paths[0] + " over " + paths[1] + " over " + paths[2]).c_str());
}

// Pages that were given back read as zeros, and show no layer.
TEST_P(Layers, AGivenBackPageIsZero) {
  Stack stack(bytes(), 2);
  stack.data(0, 0, 600);
  Server server(stack.shown(), serving(stack));
  Target target(stack.shown(), server.socket(), pageSize());
  server.restore();
  EXPECT_TRUE(target.holdsImage(1));
  target.giveBack(0, 3);
  expectContent(target, pagesOf(0, 3));
}

// Twenty stacks of up to 32 layers, by faults and by population.
TEST_P(Layers, RandomStacksAreServedAsTheyAre) {
  constexpr std::uint64_t STACKS = 20;
  std::vector<Stack> stacks;
  for (std::uint64_t seed = 0; seed < STACKS; seed++) stacks.push_back(Stack::random(bytes(), seed));
  ServerOptions options = serving(stacks[0]);
  const auto socketOf = [&](std::uint64_t i) { return stacks[i].shown().directory() + "/other-socket"; };
  for (std::uint64_t i = 1; i < STACKS; i++) {
    for (const std::string& argument :
         {std::string("--socket"), socketOf(i), std::string("--memory"), stacks[i].top().path()})
      options.more.push_back(argument);
    for (const std::string& argument : stacks[i].over()) options.more.push_back(argument);
  }
  Server server(stacks[0].shown(), options);
  for (std::uint64_t i = 0; i < STACKS; i++) {
    SCOPED_TRACE("seed " + std::to_string(i) + ", " + std::to_string(stacks[i].layers()) + " layers");
    Target target(stacks[i].shown(), i == 0 ? server.socket() : socketOf(i), pageSize());
    auto restore = server.restoreNamed(i == 0 ? "vm" : "vm" + std::to_string(i + 1));
    if (i % 2 == 0) {
      auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
      server.wait(prefault.waitRequest().send());
      for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.inMemory(page)) << page;
    }
    expectContent(target, {});
  }
}

// A successor has all the layers: of the restore, and of the listener for those that come.
TEST_P(Layers, NothingIsLostWithShardsAndCoordinator) {
  Stack stack = Stack::random(bytes(), 100);
  Server server(stack.shown(), serving(stack));
  Target target(stack.shown(), server.socket(), pageSize());
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  for (const unsigned index : {0u, 1u}) {
    const pid_t shard = server.shardPid(index);
    kill(shard, SIGKILL);
    await([&] { return server.shardPid(index) != shard && server.shardPid(index) != 0; });
  }
  EXPECT_TRUE(target.holdsImage(1));
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  EXPECT_TRUE(target.holdsImage(2));
  kill(server.shardPid(0), SIGKILL);
  expectContent(target, {});
  Target late(stack.shown(), server.socket(), pageSize());
  expectContent(late, {});
}

}  // namespace
}  // namespace faultline::test
