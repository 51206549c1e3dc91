// A layer that changes while it is served: the restore fails, by name, and no byte of another snapshot is served.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "tests/recovery/recovery_test.h"
#include "tests/support/stack.h"

namespace faultline::test {
namespace {

class ChangedLayer : public testing::Test {
 protected:
  ~ChangedLayer() noexcept override {}  // KJ's may throw

  static Stack made() {
    Stack stack(PAGES * SMALL, 3);
    stack.data(1, 100, 400);
    stack.data(0, 300, 400);
    return stack;
  }
  ServerOptions options() {
    ServerOptions all{.memory = stack_.top().path()};
    all.more = stack_.over();
    return all;
  }
  rpc::EndReason failureNaming(const std::string& layer) {
    await([&] { return !server_.eventWith({"vm", "failed", layer}).empty(); });
    return server_.wait(restore_.infoRequest().send()).getInfo().getFailure();
  }

  Stack stack_ = made();
  Server server_{stack_.shown(), options()};
  Target target_{stack_.shown(), server_.socket(), SMALL};
  rpc::Restore::Client restore_ = server_.restore();
};

TEST_F(ChangedLayer, IsNotReadAnyMore) {
  EXPECT_TRUE(target_.holdsImage(110));
  stack_.layer(1).fill(120 * SMALL, SMALL, 0x77);  // in place, and warm
  EXPECT_EQ(target_.touch(120), Touch::sigbus);
  EXPECT_EQ(failureNaming(stack_.layer(1).path()), rpc::EndReason::SOURCE_CHANGED);
  EXPECT_TRUE(target_.holdsImage(110)) << "what had come before";
  EXPECT_EQ(target_.touch(0), Touch::sigbus) << "of another layer: the restore has failed";
}

TEST_F(ChangedLayer, FailsAPopulation) {
  stack_.lowest().fill(0, SMALL, 0x77);
  auto prefault = server_.wait(restore_.prefaultRequest().send()).getPrefault();
  server_.wait(prefault.waitRequest().send());
  EXPECT_EQ(failureNaming(stack_.lowest().path()), rpc::EndReason::SOURCE_CHANGED);
}

TEST_F(ChangedLayer, ThatHasBecomeShorterFailsTheRestore) {
  stack_.lowest().truncate(PAGES / 2 * SMALL);
  EXPECT_EQ(target_.touch(PAGES - 1), Touch::sigbus);
  EXPECT_EQ(failureNaming(stack_.lowest().path()), rpc::EndReason::SOURCE_CHANGED);
}

// New data in what was a hole: it is no change of any page that was read.
TEST_F(ChangedLayer, WhoseHolesAreFilledFailsTheRestore) {
  stack_.layer(0).fill(0, SMALL, 0x77);
  EXPECT_EQ(target_.touch(1000), Touch::sigbus);
  EXPECT_EQ(failureNaming(stack_.layer(0).path()), rpc::EndReason::SOURCE_CHANGED);
}

// A successor compares with what the restore began with, not with what it finds.
TEST_F(ChangedLayer, IsNoticedAtATakeover) {
  server_.wait(restore_.pauseRequest().send());
  stack_.layer(0).fill(300 * SMALL, SMALL, 0x77);
  kill(server_.coordinatorPid(), SIGKILL);
  server_.reconnect();
  restore_ = server_.restore();
  EXPECT_EQ(failureNaming(stack_.layer(0).path()), rpc::EndReason::SOURCE_CHANGED);
  EXPECT_EQ(target_.touch(300), Touch::sigbus);
}

TEST_F(ChangedLayer, IsNoticedByTheSuccessorOfAShard) {
  stack_.layer(0).fill(300 * SMALL, SMALL, 0x77);
  kill(server_.shardPid(0), SIGKILL);
  EXPECT_EQ(failureNaming(stack_.layer(0).path()), rpc::EndReason::SOURCE_CHANGED);
}

// The file is served by what is open, whatever it is called.
TEST_F(ChangedLayer, AFileThatHasLostItsNameIsServedOn) {
  ASSERT_EQ(unlink(stack_.layer(1).path().c_str()), 0);
  expectContent(target_, {});
  EXPECT_EQ(server_.wait(restore_.infoRequest().send()).getInfo().getFailure(), rpc::EndReason::NOT_ENDED);
}

// The target that comes next gets what lies there now, if that can be a layer.
TEST_F(ChangedLayer, AReplacedOneIsLookedAtForEachTarget) {
  Stack now(PAGES * SMALL, 3);
  now.data(1, 100, 400);
  now.data(0, 500, 10);
  ASSERT_EQ(rename(now.top().path().c_str(), stack_.top().path().c_str()), 0);
  {
    Target target(now.shown(), server_.socket(), SMALL);
    expectContent(target, {});
  }
  const Image full(PAGES * SMALL);
  ASSERT_EQ(rename(full.path().c_str(), stack_.top().path().c_str()), 0);
  const Target refused(full, server_.socket(), SMALL);
  await([&] { return server_.status().getTotals().getTargetsRefused() == 1; });
  expectContent(target_, {});
}

}  // namespace
}  // namespace faultline::test
