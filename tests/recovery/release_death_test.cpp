// Processes die while large holes, or what a target has given up, are being released; the successor releases them, and nothing
// is lost.

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t FIRST = 512, HOLE = 1024;  // pages

// `held`: the release is held there by a barrier, and the coordinator killed. Else it kills itself as it comes by.
struct Place {
  const char* point;
  bool held;
  unsigned skip;  // times to pass first
};

class ReleaseDeath : public testing::TestWithParam<Place> {
 protected:
  ReleaseDeath() { image_.hole(FIRST * SMALL, HOLE * SMALL); }
  ~ReleaseDeath() noexcept override {}  // KJ's may throw

  std::uint64_t released() { return server_.wait(restore_.infoRequest().send()).getInfo().getReleased(); }
  // All of the hole is, and is zero for good: a page that is registered once more is zeros and no error.
  void expectAllReleased(const Target& target) {
    await([&] { return released() == HOLE; });
    uffdio_register request{};
    request.range = {reinterpret_cast<std::uint64_t>(target.address(FIRST)), HOLE * SMALL};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    ASSERT_EQ(ioctl(target.uffd(), UFFDIO_REGISTER, &request), 0);
    expectContent(target, {});
    EXPECT_EQ(server_.sum(&rpc::ShardStats::Reader::getPoisoned), 0u);
  }

  Image image_{PAGES * SMALL};
  Server server_{image_, {.shards = SHARDS, .watchdogMs = WATCHDOG_MS}};
  rpc::Restore::Client restore_{nullptr};
};

TEST_P(ReleaseDeath, OfTheCoordinatorLeavesItToItsSuccessor) {
  const auto [point, held, skip] = GetParam();
  auto barrier = arm(server_, coordinatorHooks(server_), point, held ? rpc::Action::PARK : rpc::Action::KILL,
                     failpoints::ANY_PAGE, skip);
  const pid_t before = server_.coordinatorPid();
  Target target(image_, server_.socket(), SMALL);
  if (held) {
    server_.wait(barrier.waitHeldRequest().send());
    ::kill(before, SIGKILL);
  } else {
    EXPECT_THROW(server_.wait(barrier.waitHeldRequest().send()), kj::Exception);
  }
  server_.reconnect();
  restore_ = server_.restore();
  EXPECT_EQ(server_.status().getIncarnation(), 2u);
  expectAllReleased(target);
}

INSTANTIATE_TEST_SUITE_P(At, ReleaseDeath,
                         testing::Values(Place{"beforeUnregister", true, 0}, Place{"unregistered", true, 0},
                                         Place{"midRelease", false, 0}, Place{"midRelease", false, 7},
                                         Place{"midRelease", false, HOLE / 64 - 1}),
                         [](const auto& info) { return info.param.point + std::to_string(info.param.skip); });

using ReleaseDeaths = ReleaseDeath;

// Shards have nothing to do with it. Their successors find the marks in the segment.
TEST_F(ReleaseDeaths, OfAllShardsChangeNothing) {
  auto barrier = arm(server_, coordinatorHooks(server_), "unregistered", rpc::Action::PARK);
  Target target(image_, server_.socket(), SMALL);
  restore_ = server_.restore();
  server_.wait(barrier.waitHeldRequest().send());
  for (unsigned i = 0; i < SHARDS; i++) ::kill(server_.shardPid(i), SIGKILL);
  EXPECT_TRUE(target.isAll(FIRST, 0));
  EXPECT_EQ(released(), 0u);
  server_.wait(barrier.releaseRequest().send());
  expectAllReleased(target);
}

// The successor of a release that was over releases nothing anew, and tells it all the same.
TEST_F(ReleaseDeaths, AfterItLeaveWhatIsReleased) {
  Target target(image_, server_.socket(), SMALL);
  restore_ = server_.restore();
  await([&] { return released() == HOLE; });
  ::kill(server_.coordinatorPid(), SIGKILL);
  server_.reconnect();
  restore_ = server_.restore();
  EXPECT_EQ(released(), HOLE);
  EXPECT_EQ(server_.segment().header().rangesReleased.load(), 1u);
  expectAllReleased(target);
}

// What the target had given up before. The removal itself was published in any case.
class RemovalReleaseDeath : public testing::TestWithParam<Place> {
 protected:
  static constexpr std::uint64_t GIVEN = 300, COUNT = 700;  // pages
  ~RemovalReleaseDeath() noexcept override {}               // KJ's may throw
};

TEST_P(RemovalReleaseDeath, OfTheCoordinatorLeavesItToItsSuccessor) {
  const auto [point, held, skip] = GetParam();
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .watchdogMs = WATCHDOG_MS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  target.write(GIVEN + 1, 0x5a);
  auto barrier = arm(server, coordinatorHooks(server), point, held ? rpc::Action::PARK : rpc::Action::KILL,
                     failpoints::ANY_PAGE, skip);
  const pid_t before = server.coordinatorPid();
  target.giveBack(GIVEN, COUNT);
  if (held) {
    server.wait(barrier.waitHeldRequest().send());
    // By the kernel alone where the range is unregistered, and marked by nobody yet.
    if (point == std::string("unregistered")) target.write(GIVEN + 2, 0x5b);
    ::kill(before, SIGKILL);
  } else {
    EXPECT_THROW(server.wait(barrier.waitHeldRequest().send()), kj::Exception);
  }
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  auto restore = server.restore();
  await([&] { return server.wait(restore.infoRequest().send()).getInfo().getReleased() == COUNT; });
  EXPECT_TRUE(target.isAll(GIVEN + 1, 0));
  EXPECT_EQ(target.read(GIVEN + 2), point == std::string("unregistered") ? 0x5b : 0);
  target.giveBack(GIVEN + 2);
  expectContent(target, pagesOf(GIVEN, COUNT));
  EXPECT_EQ(server.wait(restore.statsRequest().send()).getStats().getRemoves(), 1u);
  EXPECT_EQ(server.sum(&rpc::ShardStats::Reader::getPoisoned), 0u);
}

INSTANTIATE_TEST_SUITE_P(At, RemovalReleaseDeath,
                         testing::Values(Place{"beforeOpen", false, 0}, Place{"beforeHandout", false, 0},
                                         Place{"beforeUnregister", true, 0}, Place{"unregistered", true, 0},
                                         Place{"midRelease", false, 0}, Place{"midRelease", false, 5}),
                         [](const auto& info) { return info.param.point + std::to_string(info.param.skip); });

}  // namespace
}  // namespace faultline::test
