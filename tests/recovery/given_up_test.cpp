// A restore that is given up while a worker is inside its commit section: the undertaker then reads the uffd
// to answer faults with errors, and so lets a removal's caller go on; a copy by the worker after that would
// be old bytes.

#include "tests/recovery/parked_worker.h"
#include "tests/recovery/recovery_test.h"
#include "tests/recovery/segment_bytes.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t PAGE = EXTENT + 1;  // the second shard's

TEST(GivenUp, WhenALockWordIsDamagedAfterTheLastSectionHasEnded) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  ParkedWorker worker(server, "beforeCopy", PAGE);
  shm::Segment segment = server.segment();
  // Not a kind of mutex that can be locked.
  segment.slot(0).mutex.__data.__kind = 0x7777;
  target.giveBackLater(PAGE).get();
  worker.release(target, PAGE);
  EXPECT_EQ(target.touch(PAGE), Touch::sigbus);
  EXPECT_EQ(target.touch(0), Touch::sigbus);
  EXPECT_EQ(server.wait(server.client().restore("vm").infoRequest().send()).getInfo().getPhase(),
            rpc::Phase::FAILED);
}

TEST(GivenUp, WhenItCannotBeTakenOverAfterTheLastSectionHasEnded) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  SegmentBytes bytes(server);
  ParkedWorker worker(server, "beforeCopy", PAGE);
  // Its fault is read and never answered.
  shm::Segment segment = server.segment();
  auto given = target.giveBackLater(PAGE);
  await([&] { return segment.lock().closed(); });
  auto waiting = target.touchLater(0);
  worker.stop();  // a barrier whose connection ends lets its thread go
  const pid_t coordinator = server.coordinatorPid();
  kill(coordinator, SIGSTOP);
  bytes[0] ^= 0xff;
  kill(coordinator, SIGKILL);
  given.get();
  worker.release(target, PAGE);
  EXPECT_EQ(target.touch(PAGE), Touch::sigbus);
  EXPECT_EQ(waiting.get(), Touch::sigbus);
  server.reconnect();
}

// A thread whose fault was read by a coordinator that died with it.
TEST(GivenUp, WhenItCannotBeTakenOverEveryWaitingThreadLearnsIt) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  SegmentBytes bytes(server);
  auto barrier = server.barrier(PAGE, rpc::FaultPoint::BEFORE_READ_LOCK);
  auto waiting = target.touchLater(PAGE);
  server.wait(barrier.waitHeldRequest().send());
  const pid_t shard = server.shardPid(server.ownerOf(PAGE)), coordinator = server.coordinatorPid();
  kill(coordinator, SIGSTOP);
  kill(shard, SIGKILL);
  bytes[0] ^= 0xff;
  kill(coordinator, SIGKILL);
  EXPECT_EQ(waiting.get(), Touch::sigbus);
  server.reconnect();
}

}  // namespace
}  // namespace faultline::test
