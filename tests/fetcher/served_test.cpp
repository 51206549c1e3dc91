// Targets that are restored from packed images: what they see is the memory that was packed, by the shipped programs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "tests/fetcher/fetched_target.h"
#include "tests/sources/mounted_file.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

class Packed : public BothPageSizes {
 protected:
  std::uint64_t bytes() const { return pageSize() == SMALL ? 4u << 20 : 8u << 20; }
};
BOTH_PAGE_SIZES(Packed);

TEST_P(Packed, EveryByteIsTheImages) {
  Image image(bytes());
  image.zero(64 << 10, 200 << 10);  // whole chunks, and parts of some
  image.hole(1 << 20, 1 << 20);
  const PackedSource source(image);
  Server server(image, serving(source));
  Target target(image, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
  EXPECT_LE(figuresOf(server).bytes, image.bytes() - (1 << 20) - (128 << 10)) << "zeros are not fetched";
}

TEST_P(Packed, APopulationBringsAllOfIt) {
  Image image(bytes());
  image.hole(1 << 20, 300 << 10);
  const PackedSource source(image);
  Server server(image, serving(source));
  Target target(image, server.socket(), pageSize());
  populate(server, target);
  expectContent(target, {});
}

TEST_P(Packed, APageThatWasGivenBackIsZero) {
  Image image(bytes());
  const PackedSource source(image);
  Server server(image, serving(source));
  Target target(image, server.socket(), pageSize());
  server.restore();
  EXPECT_TRUE(target.holdsImage(1));
  target.giveBack(0, 3);
  expectContent(target, pagesOf(0, 3));
}

// Zeros of a layer hide what is below it, holes do not; whichever of the layers are packed.
TEST_P(Packed, RandomStacksAreServedAsTheyAre) {
  for (std::uint64_t seed = 0; seed < 4; seed++) {
    for (const auto lowest : {PackedSource::Lowest::packed, PackedSource::Lowest::plain}) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      Stack stack = Stack::random(bytes(), seed);
      const PackedSource source(stack, lowest);
      Server server(stack.shown(), serving(source));
      Target target(stack.shown(), server.socket(), pageSize());
      server.restore();
      if (seed % 2 == 0) populate(server, target);
      expectContent(target, {});
    }
  }
}

// By the cache of the first: also while both are served, and once the first has gone.
TEST(Fetcher, FetchesNothingTwice) {
  Image image(4 << 20);
  const PackedSource source(image);
  Server server(image, serving(source));
  std::uint64_t fetched = 0;
  {
    Target first(image, server.socket(), SMALL);
    server.restore();
    expectContent(first, {});
    fetched = figuresOf(server).bytes;
    EXPECT_EQ(fetched, image.bytes());
    EXPECT_EQ(figuresOf(server).savedBytes, 0u);
    Target second(image, server.socket(), SMALL);
    server.restore(1);
    expectContent(second, {});
  }
  await([&] { return server.status().getRestores().size() == 0; });
  Target third(image, server.socket(), SMALL);
  server.restore();
  expectContent(third, {});
  EXPECT_EQ(figuresOf(server).bytes, fetched);
  EXPECT_EQ(figuresOf(server).savedBytes, 2 * fetched) << "the second's and the third's";
  EXPECT_EQ(figuresOf(server).cachedBytes, image.bytes());
}

TEST(Fetcher, ServesWithoutKeepingWhereThereIsNoRoom) {
  Image image(4 << 20);
  const PackedSource source(image);
  Server server(image, serving(source, {.more = {"--cache-size", "256K"}}));
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  EXPECT_TRUE(target.holdsImage(1000));
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.inMemory(page)) << page;
  expectContent(target, {});
  const FetcherFigures figures = figuresOf(server);
  EXPECT_LE(figures.cachedBytes, 256u << 10);
  EXPECT_GE(figures.notKept, (image.bytes() - (256 << 10)) / (64 << 10));
}

// As far as the disk has room, which is not known before it is asked.
TEST(Fetcher, ServesWithoutKeepingOnAFullDisk) {
  const Image small(1 << 20);
  const MountedFile disk(small, "tmpfs-small");  // of 3 MiB, which has that
  if (!disk.whyNot().empty()) GTEST_SKIP() << disk.whyNot();
  const std::string folder = std::filesystem::path(disk.path()).parent_path(),
                    log = small.directory() + "/log";
  Image image(8 << 20);
  const PackedSource source(image);
  Server server(image, serving(source, {.more = {"--cache-dir", folder}, .logFile = log}));
  Target target(image, server.socket(), SMALL);
  server.restore();
  for (std::uint64_t page = 0; page < target.pages() / 2; page++)
    ASSERT_TRUE(target.holdsImage(page)) << page;
  populate(server, target);
  expectContent(target, {});
  const FetcherFigures figures = figuresOf(server);
  EXPECT_GT(figures.cachedBytes, 0u) << "what there was room for";
  EXPECT_LE(figures.cachedBytes, 2u << 20);
  EXPECT_GE(figures.notKept, (image.bytes() - (2 << 20)) / (64 << 10));
  EXPECT_THAT(textOf(log), HasSubstr("what is fetched cannot be kept: No space left on device"));
}

// Among caches that no restore uses, the one that was used longest ago goes.
TEST(Fetcher, MakesRoomByCachesThatNoRestoreUses) {
  Image first(4 << 20), second(4 << 20);
  second.fill(0, 4096, 7);
  const PackedSource one(first), other(second);
  const std::string otherSocket = first.directory() + "/other";
  Server server(first, serving(one, {.more = {"--cache-size", "6M", "--socket", otherSocket, "--memory",
                                              other.path(), "--name", "other"}}));
  {
    Target target(first, server.socket(), SMALL);
    server.restore();
    expectContent(target, {});
  }
  await([&] { return server.status().getRestores().size() == 0; });
  EXPECT_EQ(figuresOf(server).evicted, 0u);
  Target target(second, otherSocket, SMALL);
  server.restoreNamed("other");
  expectContent(target, {});
  await([&] { return figuresOf(server).evicted == 1; });
  expectContent(target, {});
}

// Named by its path to a running service, it is known by its look.
TEST(Fetcher, ServesAPackedImageThatACallNamesByItsPath) {
  Image image(4 << 20), other(4 << 20);
  other.fill(0, 4096, 7);
  const PackedSource source(other);
  Server server(image);
  const std::string socket = image.directory() + "/placed";
  listenAt(server, "placed", socket, {source.path()});
  Target target(other, socket, SMALL);
  server.restoreNamed("placed");
  expectContent(target, {});
  // A successor knows it still.
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  Target late(other, socket, SMALL);
  server.restoreNamed("placed-2");
  expectContent(late, {});
}

TEST(Fetcher, IsNotStartedForPlainFiles) {
  Image image(4 << 20);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
  EXPECT_EQ(figuresOf(server).pid, 0);
}

TEST(Fetcher, ADifferentialImageAloneIsRefused) {
  Stack stack = Stack::random(4 << 20, 3);
  const PackedSource source(stack, PackedSource::Lowest::plain);
  const auto result =
      run({"restore", "--memory", source.path(), "--socket", stack.shown().directory() + "/alone"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("is a differential image: name what it lies over as well (--over)"));
}

// Whoever names them: also a call, whose layers no command of ours has looked at.
TEST(Fetcher, ACallThatNamesAnotherBaseIsRefused) {
  for (const auto lowest : {PackedSource::Lowest::plain, PackedSource::Lowest::packed}) {
    Stack stack = Stack::random(4 << 20, 3);
    Image other(4 << 20);
    other.fill(0, 4096, 9);
    const PackedSource source(stack, lowest), another(other);
    std::vector<std::string> paths{source.path()};
    for (const std::string& word : source.over())
      if (word != "--over") paths.push_back(word);
    Server server(other);
    listenAt(server, "right", other.directory() + "/right", paths);
    paths.back() = lowest == PackedSource::Lowest::plain ? other.path() : another.path();
    try {
      listenAt(server, "wrong", other.directory() + "/wrong", paths);
      FAIL() << "accepted";
    } catch (const kj::Exception& error) {
      EXPECT_THAT(error.getDescription().cStr(), HasSubstr("name its own base"));
      EXPECT_THAT(error.getDescription().cStr(), HasSubstr(paths.front()));
    }
  }
}

TEST(Fetcher, ADifferentialImageOverAnotherBaseIsRefused) {
  Stack stack = Stack::random(4 << 20, 3);
  Image other(4 << 20);
  other.fill(0, 4096, 9);
  const PackedSource source(stack, PackedSource::Lowest::plain);
  const auto result = run({"restore", "--memory", source.path(), "--over", other.path(), "--socket",
                           stack.shown().directory() + "/wrong"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("name its own base"));
}

}  // namespace
}  // namespace faultline::test
