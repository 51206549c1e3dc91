// Restores that had failed, or that could not be taken over, and the coordinators that come after.

#include <optional>

#include "tests/recovery/parked_worker.h"
#include "tests/recovery/recovery_test.h"
#include "tests/recovery/segment_bytes.h"
#include "tests/support/child_process.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t PAGE = EXTENT + 1;  // the second shard's
constexpr int NOT_A_MUTEX = 0x7777;         // not a kind of mutex that can be locked

// A target in a process of its own, which ends when it is told to.
class HandedOn : public ::testing::Test {
 protected:
  HandedOn() : target_([this] { beTarget(); }) {}

  void beTarget() {
    serverIsThere_.wait();
    const Target target(image_, image_.directory() + "/socket", SMALL);
    leave_.wait();
    _exit(0);
  }
  void begin() {
    server_.emplace(image_, ServerOptions{.shards = SHARDS});
    serverIsThere_.send();
    server_->restore();
  }
  void nextCoordinator() {
    kill(server_->coordinatorPid(), SIGKILL);
    server_->reconnect();
  }
  void targetEnds() {
    leave_.send();
    target_.join();
  }
  void awaitNoUffds(pid_t pid) {
    await([pid] { return uffdsOf(pid) == 0; });
  }

  Image image_{PAGES * SMALL};
  Signal serverIsThere_, leave_;
  ChildProcess target_;
  std::optional<Server> server_;
};

TEST_F(HandedOn, AFailedRestoreEndsWithItsTarget) {
  begin();
  SegmentBytes bytes(*server_);
  bytes[0] ^= 0xff;  // the next shard does not believe it
  kill(server_->shardPid(1), SIGKILL);
  awaitRestarts(*server_, 1, 1);
  await([&] { return !server_->eventWith({"has failed"}).empty(); });
  bytes[0] ^= 0xff;
  nextCoordinator();
  ASSERT_EQ(server_->status().getRestores().size(), 1u);
  EXPECT_EQ(server_->status().getRestores()[0].getPhase(), rpc::Phase::FAILED);
  targetEnds();
  await([&] { return server_->status().getRestores().size() == 0; });
  awaitNoUffds(server_->coordinatorPid());
  awaitNoUffds(server_->supervisor());
  for (unsigned shard = 0; shard < SHARDS; shard++) awaitNoUffds(server_->shardPid(shard));
}

TEST_F(HandedOn, ARestoreThatCannotBeTakenOverIsForgottenWithItsTarget) {
  begin();
  {
    SegmentBytes bytes(*server_);
    bytes[0] ^= 0xff;
    nextCoordinator();
  }
  await([&] { return !server_->eventWith({"cannot be taken over"}).empty(); });
  targetEnds();
  awaitNoUffds(server_->coordinatorPid());
  awaitNoUffds(server_->supervisor());
  for (unsigned shard = 0; shard < SHARDS; shard++) awaitRestarts(*server_, shard, 1);
  // No shard has to be ended for it any more.
  std::vector<pid_t> before, after;
  for (unsigned shard = 0; shard < SHARDS; shard++) before.push_back(server_->shardPid(shard));
  nextCoordinator();
  for (unsigned shard = 0; shard < SHARDS; shard++) after.push_back(server_->shardPid(shard));
  EXPECT_EQ(before, after);
}

// Interleaving: a shard finds that it cannot serve the restore, and says so to a coordinator that dies before
// it hears it. The successor finds everything sound.
TEST(HandedOnFailure, ThatADyingCoordinatorDidNotHearOfIsToldToItsSuccessor) {
  Image image(PAGES * SMALL);
  const std::string log = image.directory() + "/log";
  Server server(image, {.shards = SHARDS, .logFile = log});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const unsigned owner = server.ownerOf(PAGE);
  shm::Segment segment = server.segment();
  ParkedWorker worker(server, "beforeReadLock", PAGE);
  const pid_t coordinator = server.coordinatorPid();
  kill(coordinator, SIGSTOP);
  awaitStopped(coordinator);
  std::vector<int> kinds;
  for (unsigned i = 0; i < segment.facts().workersPerShard; i++)
    kinds.push_back(
        std::exchange(segment.slot(segment.firstSlot(owner) + i).mutex.__data.__kind, NOT_A_MUTEX));
  worker.letGo();
  await([&] { return textOf(log).find("cannot be served") != std::string::npos; });
  for (unsigned i = 0; i < segment.facts().workersPerShard; i++)
    segment.slot(segment.firstSlot(owner) + i).mutex.__data.__kind = kinds[i];
  kill(coordinator, SIGKILL);
  server.reconnect();
  EXPECT_EQ(target.touch(PAGE), Touch::sigbus);
}

}  // namespace
}  // namespace faultline::test
