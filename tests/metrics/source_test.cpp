// How often the coordinator is asked for figures, with one that the test has in its hands.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "cli/metrics_server.h"
#include "process/clock.h"
#include "rpc/connection.h"
#include "rpc/control.capnp.h"
#include "tests/cli/command.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

// Answers when it is told to.
class Coordinator final : public rpc::Coordinator::Server {
 public:
  std::vector<std::uint64_t> asked;  // when; ns
  kj::PromiseFulfillerPair<void> next = kj::newPromiseAndFulfiller<void>();

  kj::Promise<void> status(StatusContext context) override {
    asked.push_back(process::nowNs());
    context.getResults().initService();
    return kj::mv(next.promise);
  }
  void answer() {
    next.fulfiller->fulfill();
    next = kj::newPromiseAndFulfiller<void>();
  }
};

struct Scene {
  Scene() {
    auto server = kj::heap<Coordinator>();
    coordinator = server.get();
    acceptor = kj::heap<rpc::Acceptor>(rpc::Coordinator::Client(kj::mv(server)));
    serving = acceptor->listen(*io.lowLevelProvider, rpc::listenAt(path)).eagerlyEvaluate(nullptr);
  }
  // Returns when the coordinator has been asked so often.
  void awaitAsked(std::size_t times) {
    while (coordinator->asked.size() < times) io.waitScope.poll();
  }

  Directory directory;
  const std::string path = directory / "control";
  kj::AsyncIoContext io = kj::setupAsyncIo();
  Coordinator* coordinator;
  kj::Own<rpc::Acceptor> acceptor;
  kj::Promise<void> serving = nullptr;
  cli::MetricsSource source{io, path, cli::Detail::restores};
};

TEST(MetricsSource, AsksOnceForAllWhoWantToKnowMeanwhile) {
  Scene scene;
  std::vector<kj::Promise<std::string>> texts;
  for (unsigned i = 0; i < 3; i++) texts.push_back(scene.source.text());
  scene.awaitAsked(1);
  for (unsigned i = 0; i < 3; i++) texts.push_back(scene.source.text());
  scene.coordinator->answer();
  for (auto& text : texts) EXPECT_THAT(text.wait(scene.io.waitScope), HasSubstr("\nfaultline_up 1\n"));
  EXPECT_EQ(scene.coordinator->asked.size(), 1u);
}

TEST(MetricsSource, LeavesTheCoordinatorAloneNineTimesAsLongAsItTookToAnswer) {
  Scene scene;
  auto first = scene.source.text();
  scene.awaitAsked(1);
  const std::uint64_t took = process::nowNs() - scene.coordinator->asked[0];
  scene.coordinator->answer();
  first.wait(scene.io.waitScope);
  auto second = scene.source.text();
  scene.awaitAsked(2);
  EXPECT_GE(scene.coordinator->asked[1], scene.coordinator->asked[0] + 10 * took);
  scene.coordinator->answer();
  EXPECT_THAT(second.wait(scene.io.waitScope), HasSubstr("\nfaultline_up 1\n"));
}

TEST(MetricsSource, WhoHasGoneTakesNobodysAnswerAway) {
  Scene scene;
  auto stays = kj::Maybe<kj::Promise<std::string>>();
  {
    auto goes = scene.source.text();
    stays = scene.source.text();
    scene.awaitAsked(1);
  }
  scene.coordinator->answer();
  EXPECT_THAT(KJ_ASSERT_NONNULL(stays).wait(scene.io.waitScope), HasSubstr("\nfaultline_up 1\n"));
}

}  // namespace
}  // namespace faultline::test
