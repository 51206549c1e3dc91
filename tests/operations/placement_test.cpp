// Which shards a restore is dealt out to, and which CPUs they run on.

#include <gtest/gtest.h>
#include <sched.h>

#include <set>

#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t SMALL = 4096, PAGES = 6 * 512;  // six extents

std::set<std::uint32_t> ownersOf(Server& server, unsigned restore = 0) {
  std::set<std::uint32_t> owners;
  const shm::Segment segment = server.segment(restore);
  for (std::uint64_t page = 0; page < segment.pages().pageCount(); page++)
    owners.insert(segment.ownerOf(page));
  return owners;
}

TEST(Placement, ARestoreIsDealtOutToSoManyShards) {
  Image image(PAGES * SMALL);
  for (const unsigned owners : {1u, 2u, 3u, 64u}) {
    Server server(image, {.shards = 3, .owners = owners});
    Target target(image, server.socket(), SMALL);
    server.restore();
    EXPECT_EQ(ownersOf(server).size(), std::min(owners, 3u)) << owners;
    for (std::uint64_t page = 0; page < target.pages(); page += 100)
      ASSERT_TRUE(target.holdsImage(page)) << page;
  }
}

// A shard that owns nothing of a restore has nothing of it: no uffd, no segment, no memory file; and a
// population does not wait for it.
TEST(Placement, AShardWithoutAShareHasNothingOfARestore) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 3, .owners = 1, .prefault = true});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  server.wait(restore.waitCompleteRequest().send());
  const auto owners = ownersOf(server);
  auto status = server.status();
  for (auto shard : status.getShards())
    EXPECT_EQ(shard.getRestores(), owners.count(shard.getIndex())) << shard.getIndex();
}

// A shard without a share can be given extents later.
TEST(Placement, AShardWithoutAShareCanGetOne) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 3, .owners = 1});
  Target target(image, server.socket(), SMALL);
  server.restore();
  auto request = server.client().coordinator().reshardRequest();
  request.setRestore(Server::restoreName());
  request.setShards(3);
  server.wait(request.send());
  EXPECT_EQ(ownersOf(server), (std::set<std::uint32_t>{0, 1, 2}));
  for (std::uint64_t page = 0; page < target.pages(); page += 100)
    ASSERT_TRUE(target.holdsImage(page)) << page;
}

TEST(Placement, CoordinatorAndShardsRunOnTheCpusTheyAreGiven) {
  cpu_set_t may;
  ASSERT_EQ(sched_getaffinity(0, sizeof may, &may), 0);
  int last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &may)) last--;
  Image image(PAGES * SMALL);
  Server server(image, {.more = {"--cpus", std::to_string(last)}});
  for (const pid_t pid : {server.coordinatorPid(), server.shardPid(0), server.shardPid(1)}) {
    cpu_set_t cpus;
    ASSERT_EQ(sched_getaffinity(pid, sizeof cpus, &cpus), 0);
    EXPECT_EQ(CPU_COUNT(&cpus), 1);
    EXPECT_TRUE(CPU_ISSET(last, &cpus));
  }
}

}  // namespace
}  // namespace faultline::test
