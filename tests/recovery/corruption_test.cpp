// Bytes of the segment that rot while no process of the server lives are found when it is adopted: rebuilt
// from what is redundant, or the restore fails loudly and alone. Never wrong bytes.

#include <random>

#include "tests/recovery/recovery_test.h"
#include "tests/recovery/segment_bytes.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t GIVEN = 20, COUNT = 10;

enum class Errors { allowed, none };

// Flips one byte while all of ours but the supervisor are dead; judges what the target gets afterwards.
void flipWhileDead(std::size_t offset, unsigned char mask, Errors errors = Errors::allowed) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  target.giveBack(GIVEN, COUNT);
  target.read(100);
  target.read(GIVEN);
  SegmentBytes bytes(server);
  ASSERT_LT(offset, bytes.size());
  std::vector<pid_t> pids = {server.coordinatorPid()};
  for (unsigned index = 0; index < SHARDS; index++) pids.push_back(server.shardPid(index));
  // All processes stand still, the byte is changed, all processes die.
  for (const pid_t pid : pids) kill(pid, SIGSTOP);
  bytes[offset] ^= mask;
  for (const pid_t pid : pids) kill(pid, SIGKILL);
  for (const std::uint64_t page :
       {GIVEN, GIVEN + 3, GIVEN + COUNT, std::uint64_t{100}, std::uint64_t{0}, PAGES - 1}) {
    const bool given = page >= GIVEN && page < GIVEN + COUNT;
    if (target.touch(page) == Touch::sigbus) {  // loud
      EXPECT_EQ(errors, Errors::allowed) << "page " << page << ", byte " << offset;
      continue;
    }
    if (given)
      EXPECT_TRUE(target.isAll(page, 0)) << "page " << page << ", byte " << offset;
    else
      EXPECT_TRUE(target.holdsImage(page)) << "page " << page << ", byte " << offset;
  }
  server.reconnect();
}

std::vector<std::size_t> interestingOffsets() {
  const shm::Layout layout = shm::Layout::of(1, PAGES / EXTENT, PAGES, 4);
  // The header, the lock words, the journal, a slot, the regions, the owners, and each word that tells of our
  // pages.
  std::vector<std::size_t> offsets = {0,
                                      8,
                                      12,
                                      24,
                                      60,
                                      sizeof(shm::Immutable),
                                      offsetof(shm::Header, state),
                                      offsetof(shm::Header, activeShards),
                                      offsetof(shm::Header, paused),
                                      layout.lock,
                                      layout.lock + shm::CACHE_LINE,
                                      layout.journal,
                                      layout.journal + 8,
                                      layout.slots,
                                      layout.slots + 8,
                                      layout.regions,
                                      layout.regions + 17,
                                      layout.extents,
                                      layout.extents + 1};
  for (const std::size_t plane : {layout.pages, layout.mirror})
    for (const std::size_t byte : {0, 2, 3, 8, 10, 11, 28, 36}) offsets.push_back(plane + byte);
  return offsets;
}

TEST(Corruption, AByteThatRotsNeverBecomesWrongBytesOfTheTarget) {
  std::mt19937 random(7);
  for (const std::size_t offset : interestingOffsets())
    flipWhileDead(offset, static_cast<unsigned char>(1 + random() % 255));
}

// A page that is noted as populated in only one of the two places is taken for missing, and nothing is lost.
TEST(Corruption, ABitThatFollowsFromTheRestCostsNothing) {
  const shm::Layout layout = shm::Layout::of(1, PAGES / EXTENT, PAGES, 4);
  const std::size_t word = offsetof(shm::PageWord, faulted);
  for (const std::size_t plane : {layout.pages, layout.mirror}) flipWhileDead(plane + word, 1, Errors::none);
}

TEST(Corruption, OfOneRestoreLeavesTheOthersAlone) {
  TwoRestores two;
  SegmentBytes bytes(two.server);
  std::vector<pid_t> pids = {two.server.coordinatorPid()};
  for (unsigned index = 0; index < SHARDS; index++) pids.push_back(two.server.shardPid(index));
  for (const pid_t pid : pids) kill(pid, SIGSTOP);
  bytes[0] ^= 0xff;
  for (const pid_t pid : pids) kill(pid, SIGKILL);
  expectContent(two.bystander, {});
  EXPECT_EQ(two.target.touch(1), Touch::sigbus);
  two.server.reconnect();
  EXPECT_EQ(two.server.status().getRestores().size(), 1u);
}

}  // namespace
}  // namespace faultline::test
