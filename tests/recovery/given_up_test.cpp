// A restore that is given up while a worker is inside its commit section: whoever then reads the uffd to
// answer faults with errors tells a removal's caller to go on, and what the worker copies after that would be
// old bytes.

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/recovery/recovery_test.h"
#include "tests/recovery/segment_bytes.h"

namespace faultline::test {
namespace {

// A shard's worker that populates one page in the background, parked between the check of the page's state
// and the copy. Nobody waits for the page, so nobody asks for it again.
class Parked {
 public:
  Parked(Server& server, std::uint64_t page, unsigned n = 0)
      : shard_(server.shardPid(server.ownerOf(page, n))),
        pidfd_(static_cast<int>(syscall(SYS_pidfd_open, shard_, 0))),
        resume_(eventfd(0, EFD_CLOEXEC)),
        barrier_(nullptr) {
    const int reached = eventfd(0, EFD_CLOEXEC);
    auto request = shardHooks(server, server.ownerOf(page, n)).armRequest();
    request.setPoint("beforeCopy");
    request.setAction(rpc::Action::PARK);
    request.setPage(page);
    request.setReached(rpc::makeFdFrom(reached));
    request.setResume(rpc::makeFdFrom(resume_));
    barrier_ = server.wait(request.send()).getBarrier();
    auto prefault = server.client().restore(Server::restoreName(n)).prefaultRequest();
    auto range = prefault.initRanges(1)[0];
    range.setFirst(page);
    range.setCount(1);
    server.wait(prefault.send());
    std::uint64_t value = 0;
    EXPECT_EQ(::read(reached, &value, sizeof value), static_cast<ssize_t>(sizeof value));
    close(reached);
  }
  ~Parked() {
    close(pidfd_);
    close(resume_);
  }
  Parked(const Parked&) = delete;

  void stop() { signal(SIGSTOP); }
  // Lets the worker go, and returns when it has copied the page, or can do so no more.
  void release(const Target& target, std::uint64_t page) {
    const std::uint64_t value = 1;
    EXPECT_EQ(write(resume_, &value, sizeof value), static_cast<ssize_t>(sizeof value));
    signal(SIGCONT);
    await([&] { return ended() || target.inMemory(page); });
  }

 private:
  void signal(int number) { syscall(SYS_pidfd_send_signal, pidfd_, number, nullptr, 0); }
  bool ended() {
    pollfd exit{pidfd_, POLLIN, 0};
    return poll(&exit, 1, 0) == 1;
  }

  const pid_t shard_;
  const int pidfd_;
  const int resume_;
  rpc::Barrier::Client barrier_;
};

constexpr std::uint64_t PAGE = EXTENT + 1;  // the second shard's

TEST(GivenUp, WhenALockWordIsDamagedAfterTheLastSectionHasEnded) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  Parked worker(server, PAGE);
  shm::Segment segment = server.segment();
  // Not the kind of mutex that anybody can lock.
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
  Parked worker(server, PAGE);
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
