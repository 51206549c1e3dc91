// The parts of a target's memory that may be registered no more.

#include "coordinator/releasable_memory.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "rpc/fetch_map.h"
#include "shmtracker/region_table.h"
#include "tests/support/stack.h"

namespace faultline::coordinator {
namespace {

using image::ByteRange;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t MIB = 1u << 20, PAGE = 4096;

std::vector<shm::RegionEntry> entriesOf(const std::vector<shm::Region>& regions) {
  std::vector<shm::RegionEntry> entries(regions.size());
  shm::RegionTable::build(regions, entries);
  return entries;
}
std::vector<LayerToLookAt> layersOf(const std::vector<std::string>& paths) {
  SourceFiles files;
  for (const std::string& path : paths) {
    int fd;
    KJ_SYSCALL(fd = open(path.c_str(), O_RDONLY | O_CLOEXEC));
    files.emplace_back(kj::AutoCloseFd(fd));
  }
  return layersToLookAt(files, {});
}

TEST(ReleasableMemory, IsALargeHoleAndNoSmallOne) {
  test::Image image(32 * MIB);
  image.hole(1 * MIB, 1 * MIB);
  image.hole(3 * MIB + PAGE, 2 * MIB);
  image.hole(8 * MIB, 2 * MIB - PAGE);
  image.hole(20 * MIB, 12 * MIB);
  const auto layers = layersOf({image.path()});
  EXPECT_THAT(zeroForGood(layers, 32 * MIB),
              ElementsAre(ByteRange{3 * MIB + PAGE, 2 * MIB}, ByteRange{20 * MIB, 12 * MIB}));
  EXPECT_THAT(zeroForGood(layers, 24 * MIB),
              ElementsAre(ByteRange{3 * MIB + PAGE, 2 * MIB}, ByteRange{20 * MIB, 4 * MIB}));
}

// However fragmented a file is, a hole of twice the least size is found, all but less than the least of it.
TEST(ReleasableMemory, IsFoundBesideManyFragments) {
  test::Image image(32 * MIB);
  for (std::uint64_t page = 1; page < 16 * MIB / PAGE; page += 2) image.hole(page * PAGE, PAGE);
  image.hole(16 * MIB + PAGE, 4 * MIB);
  for (std::uint64_t page = 21 * MIB / PAGE; page < 32 * MIB / PAGE; page += 3) image.hole(page * PAGE, PAGE);
  const auto zero = zeroForGood(layersOf({image.path()}), 32 * MIB);
  ASSERT_EQ(zero.size(), 1u);
  EXPECT_GE(zero[0].offset, 16 * MIB + PAGE);
  EXPECT_GE(zero[0].size, LEAST_RELEASED);
  EXPECT_EQ(zero[0].end(), 20 * MIB + PAGE);
}

TEST(ReleasableMemory, IsNothingBehindTheEndOfAFile) {
  test::Image image(16 * MIB);
  image.truncate(8 * MIB);
  EXPECT_THAT(zeroForGood(layersOf({image.path()}), 16 * MIB), IsEmpty());
  image.hole(4 * MIB, 4 * MIB);
  EXPECT_THAT(zeroForGood(layersOf({image.path()}), 16 * MIB), ElementsAre(ByteRange{4 * MIB, 4 * MIB}));
}

TEST(ReleasableMemory, IsNothingOfAFileThatHasBeenWrittenTo) {
  test::Image image(16 * MIB);
  image.hole(4 * MIB, 8 * MIB);
  const auto layers = layersOf({image.path()});
  EXPECT_FALSE(zeroForGood(layers, 16 * MIB).empty());
  image.fill(0, PAGE, 1);
  EXPECT_THAT(zeroForGood(layers, 16 * MIB), IsEmpty());
}

TEST(ReleasableMemory, IsWhereNoLayerHasAnything) {
  test::Stack stack(16 * MIB, 3);
  stack.hole(0, 16 * MIB / PAGE);
  stack.data(1, 2 * MIB / PAGE, 1);
  stack.zeros(0, 10 * MIB / PAGE, 1);  // they are data: they hide what is below
  EXPECT_THAT(zeroForGood(layersOf(stack.paths()), 16 * MIB),
              ElementsAre(ByteRange{0, 2 * MIB}, ByteRange{2 * MIB + PAGE, 8 * MIB - PAGE},
                          ByteRange{10 * MIB + PAGE, 6 * MIB - PAGE}));
}

// A hole of a cache is "not fetched". What its map says holds.
TEST(ReleasableMemory, OfACacheIsWhatItsMapCallsZero) {
  using rpc::FetchMap;
  const auto mapOf = [](bool layered) {
    return FetchMap::create({.bytes = 8 * MIB, .identity = 1, .layered = layered});
  };
  constexpr std::uint64_t CHUNKS = 4 * MIB / FetchMap::CHUNK;
  std::vector<LayerToLookAt> lowest;
  lowest.push_back({{}, {}, mapOf(false)});
  FetchMap map = FetchMap::attach(lowest[0].cacheMap.get(), FetchMap::Access::write);
  for (std::uint64_t chunk = 0; chunk < CHUNKS; chunk++) map.set(chunk, FetchMap::State::zero);
  map.set(CHUNKS + 1, FetchMap::State::present);
  EXPECT_THAT(zeroForGood(lowest, 8 * MIB), IsEmpty()) << "what is known without fetching is not there yet";
  map.setReady();
  EXPECT_THAT(zeroForGood(lowest, 8 * MIB), ElementsAre(ByteRange{0, 4 * MIB}));

  // Over it another one, whose first half is the layer's below, but for a page.
  std::vector<LayerToLookAt> both;
  both.push_back({{}, {}, mapOf(true)});
  both.push_back(std::move(lowest[0]));
  FetchMap upper = FetchMap::attach(both[0].cacheMap.get(), FetchMap::Access::write);
  upper.setBelow(0, 3 * MIB / PAGE - 1);
  for (std::uint64_t chunk = 0; chunk < CHUNKS; chunk++) upper.set(chunk, FetchMap::State::zero);
  upper.setReady();
  EXPECT_THAT(zeroForGood(both, 8 * MIB), ElementsAre(ByteRange{0, 3 * MIB - FetchMap::CHUNK}));
}

TEST(ReleasableMemory, LiesInPrivateAnonymousMappingsOfSmallPagesLargestFirst) {
  constexpr std::uint64_t A = 1ull << 32, B = 1ull << 33, C = 1ull << 34;
  const auto regions =
      entriesOf({{A, 64 * MIB, 0, PAGE}, {B, 64 * MIB, 64 * MIB, PAGE}, {C, 64 * MIB, 0, 2 * MIB}});
  const std::vector<Mapping> mappings{
      {A - MIB, A + 16 * MIB, false, true},     {A + 16 * MIB, A + 20 * MIB, false, false},
      {A + 20 * MIB, A + 24 * MIB, true, true}, {A + 24 * MIB, B, false, true},
      {B, B + 64 * MIB, false, true},           {C, C + 64 * MIB, false, true}};
  const std::vector<ByteRange> zero{{13 * MIB, 13 * MIB}, {60 * MIB, 12 * MIB}, {127 * MIB, MIB}};
  EXPECT_THAT(releasableIn(pagesOf(zero, regions), regions, mappings),
              ElementsAre(ReleasableRange{B, 8 * MIB, {64 * MIB / PAGE, 8 * MIB / PAGE}},
                          ReleasableRange{A + 60 * MIB, 4 * MIB, {60 * MIB / PAGE, 4 * MIB / PAGE}},
                          ReleasableRange{A + 13 * MIB, 3 * MIB, {13 * MIB / PAGE, 3 * MIB / PAGE}},
                          ReleasableRange{A + 24 * MIB, 2 * MIB, {24 * MIB / PAGE, 2 * MIB / PAGE}}));
}

TEST(ReleasableMemory, LeavesTheTargetItsMappings) {
  EXPECT_EQ(mostReleased(100, 65530, 0), MOST_RELEASED);
  EXPECT_EQ(mostReleased(100, 65530, MOST_RELEASED - 3), 3u);
  EXPECT_EQ(mostReleased(100, 65530, MOST_RELEASED + 3), 0u);
  EXPECT_EQ(mostReleased(32765 - 10, 65530, 0), 5u);
  EXPECT_EQ(mostReleased(40000, 65530, 0), 0u);
  EXPECT_EQ(mostReleased(100, 0, 0), 0u) << "the kernel does not tell";
}

// Of this process itself, by its pidfd.
TEST(ReleasableMemory, IsFoundInAProcess) {
  test::Image image(16 * MIB);
  image.hole(4 * MIB, 8 * MIB);
  void* start = mmap(nullptr, 16 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(start, MAP_FAILED);
  const auto base = reinterpret_cast<std::uint64_t>(start);
  int fd;
  KJ_SYSCALL(fd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  const kj::AutoCloseFd self(fd);
  const auto found = releasableMemory(layersOf({image.path()}), 16 * MIB,
                                      entriesOf({{base, 16 * MIB, 0, PAGE}}), self.get(), 7);
  EXPECT_THAT(found.ranges,
              ElementsAre(ReleasableRange{base + 4 * MIB, 8 * MIB, {4 * MIB / PAGE, 8 * MIB / PAGE}}));
  EXPECT_EQ(found.most, MOST_RELEASED - 7);
  munmap(start, 16 * MIB);
}

}  // namespace
}  // namespace faultline::coordinator
