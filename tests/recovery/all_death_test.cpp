// More than one of us dies at once. As long as the supervisor holds the fds, the target waits and is served
// later.

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
  // Both queued, nobody to read them.
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
  EXPECT_NE(std::string(ended.getReason().cStr()).find("gone"), std::string::npos);
  expectContent(target, {});
  await([&] { return server.status().getRestores().size() == 1; });
  close(begun[0]);
  close(begun[1]);
}

}  // namespace
}  // namespace faultline::test
