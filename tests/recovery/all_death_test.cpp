// Several processes of the server die at once. The supervisor holds the fds, so the target waits and is
// served later.

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t FIRST = EXTENT - 2;
constexpr std::uint64_t COUNT = 4;

TEST(ManyDeaths, CoordinatorAndTheShardThatIsInsideItsSection) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const pid_t shard = server.shardPid(server.ownerOf(FIRST));
  const pid_t coordinator = server.coordinatorPid();
  auto barrier = server.barrier(FIRST, rpc::FaultPoint::BEFORE_COPY);
  auto read = target.readLater(FIRST);
  server.wait(barrier.waitHeldRequest().send());
  auto given = target.giveBackLater(FIRST, COUNT);
  shm::Segment segment = server.segment();
  await([&] { return segment.lock().closed(); });
  kill(coordinator, SIGKILL);
  kill(shard, SIGKILL);
  given.get();
  read.get();
  server.reconnect();
  expectContent(target, pagesOf(FIRST, COUNT));
}

// The kernel hands a dead thread's robust mutexes over one after the other, and stops at one whose memory is
// gone: a restore that has ended must have given its own back.
TEST(ManyDeaths, ACoordinatorThatHadEndedAnotherRestoreBefore) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target older(image, server.socket(), SMALL);
  server.restore(0);
  {
    Target newer(image, server.socket(), SMALL);
    auto restore = server.restore(1);
    newer.read(0);
    auto detach = restore.detachRequest();
    detach.setForce(true);
    server.wait(detach.send());
    await([&] { return server.status().getRestores().size() == 1; });
  }
  kill(server.coordinatorPid(), SIGKILL);
  EXPECT_EQ(older.touch(FIRST), Touch::ok);
  expectContent(older, {});
  server.reconnect();
  EXPECT_EQ(server.status().getRestores().size(), 1u);
}

TEST(ManyDeaths, AllShardsAtOnce) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  std::vector<rpc::Barrier::Client> barriers;
  std::vector<std::future<unsigned char>> reads;
  for (unsigned index = 0; index < SHARDS; index++) {
    barriers.push_back(server.barrier(index * EXTENT, rpc::FaultPoint::BEFORE_READ_LOCK));
    reads.push_back(target.readLater(index * EXTENT));
    server.wait(barriers.back().waitHeldRequest().send());
  }
  for (unsigned index = 0; index < SHARDS; index++) kill(server.shardPid(index), SIGKILL);
  for (unsigned index = 0; index < SHARDS; index++)
    EXPECT_EQ(reads[index].get(), image.at(target.offset(index * EXTENT)));
  expectContent(target, {});
}

TEST(ManyDeaths, AllButTheSupervisor) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  target.giveBack(FIRST, COUNT);
  std::vector<pid_t> pids = {server.coordinatorPid()};
  for (unsigned index = 0; index < SHARDS; index++) pids.push_back(server.shardPid(index));
  // Fault and removal are queued, and no process reads them.
  for (const pid_t pid : pids) kill(pid, SIGSTOP);
  auto read = target.readLater(FIRST + COUNT + 1);
  auto given = target.giveBackLater(FIRST + COUNT + 5);
  await([&] { return target.queued().pending == 1 && target.eventInFlight(); });
  for (const pid_t pid : pids) kill(pid, SIGKILL);
  EXPECT_EQ(read.get(), image.at(target.offset(FIRST + COUNT + 1)));
  given.get();
  auto gone = pagesOf(FIRST, COUNT);
  gone.insert(FIRST + COUNT + 5);
  expectContent(target, gone);
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 2u);
}

// The gate of a dead coordinator stays closed until its successor has seen every section end. A section that
// never ends is fenced; the restore is paused, so only the recovery itself can be what fences it.
TEST(ManyDeaths, ASuccessorWaitsForTheSectionInFlight) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS, .lockDeadlineMs = 50});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  const pid_t shard = server.shardPid(server.ownerOf(FIRST));
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, shard, 0));
  const int reached = eventfd(0, EFD_CLOEXEC);
  auto request = shardHooks(server, server.ownerOf(FIRST)).armRequest();
  request.setPoint("beforeCopy");
  request.setAction(rpc::Action::PARK);
  request.setPage(FIRST);
  request.setReached(rpc::makeFdFrom(reached));
  request.setResume(rpc::makeFd(kj::AutoCloseFd(eventfd(0, EFD_CLOEXEC))));
  auto barrier = server.wait(request.send()).getBarrier();
  auto read = target.readLater(FIRST);
  std::uint64_t value = 0;
  ASSERT_EQ(::read(reached, &value, sizeof value), static_cast<ssize_t>(sizeof value));
  server.wait(restore.pauseRequest().send());
  // Dropped with the connection, a barrier lets its thread go: so the shard is stopped as well.
  kill(shard, SIGSTOP);
  kill(server.coordinatorPid(), SIGKILL);
  pollfd ended{pidfd, POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, -1), 1);
  server.reconnect();
  server.wait(server.client().restore("vm").resumeRequest().send());
  EXPECT_EQ(read.get(), image.at(target.offset(FIRST)));
  close(pidfd);
  close(reached);
}

// A worker that stands before the read lock with the source's bytes in hand, a removal that was read and not
// yet published: the gate must not open before the replay.
TEST(ManyDeaths, NoSectionRunsBeforeTheReplay) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  shm::Segment segment = server.segment();
  auto barrier = server.barrier(FIRST, rpc::FaultPoint::BEFORE_READ_LOCK);
  auto read = target.readLater(FIRST);
  server.wait(barrier.waitHeldRequest().send());
  auto hooks = coordinatorHooks(server);
  const int reached = eventfd(0, EFD_CLOEXEC), resume = eventfd(0, EFD_CLOEXEC);
  auto successor = hooks.armRequest();
  successor.setPoint("adoptDrained");
  successor.setAction(rpc::Action::PARK);
  successor.setPage(failpoints::ANY_PAGE);
  successor.setReached(rpc::makeFdFrom(reached));
  successor.setResume(rpc::makeFdFrom(resume));
  successor.setSuccessor(true);
  server.wait(successor.send());
  auto death = arm(server, hooks, "afterRead", rpc::Action::KILL);
  auto given = target.giveBackLater(FIRST);
  std::uint64_t value = 0;
  ASSERT_EQ(::read(reached, &value, sizeof value), static_cast<ssize_t>(sizeof value));
  given.get();  // its event was read
  // Closed, as it must be; if it were open, the worker would have its time now.
  await([&] { return segment.lock().closed() || segment.pages().state(FIRST) == shm::PageState::faulted; });
  value = 1;
  ASSERT_EQ(write(resume, &value, sizeof value), static_cast<ssize_t>(sizeof value));
  EXPECT_EQ(read.get(), 0);
  expectContent(target, {FIRST});
  close(reached);
  close(resume);
  server.reconnect();
}

TEST(ManyDeaths, ATargetThatDiesEndsItsRestoreAlone) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  int begun[2];
  ASSERT_EQ(pipe(begun), 0);
  const pid_t child = fork();
  if (child == 0) {
    Target dying(image, server.socket(), SMALL);
    dying.read(0);
    char byte = 1;
    if (write(begun[1], &byte, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char byte = 0;
  ASSERT_EQ(read(begun[0], &byte, 1), 1);
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore(1);
  auto dying = server.restore(0);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  auto ended = server.wait(dying.waitEndedRequest().send());
  EXPECT_EQ(ended.getReason(), rpc::EndReason::TARGET_GONE);
  expectContent(target, {});
  await([&] { return server.status().getRestores().size() == 1; });
  close(begun[0]);
  close(begun[1]);
}

}  // namespace
}  // namespace faultline::test
