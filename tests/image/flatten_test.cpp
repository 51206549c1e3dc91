// `faultline flatten`: the shipped tool.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>
#include <thread>

#include "cli/errors.h"
#include "tests/cli/command.h"
#include "tests/image/layer_file.h"
#include "tests/sources/mounted_file.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr int ZERO = 0;

// In `folder`, layers 0, 1, ... of files l0, l1, ...
std::vector<std::string> flattenArguments(const Directory& folder, std::size_t layers) {
  std::vector<std::string> arguments{"flatten", folder / "l0"};
  for (std::size_t i = 1; i < layers; i++) {
    arguments.emplace_back("--over");
    arguments.push_back(folder / ("l" + std::to_string(i)));
  }
  arguments.push_back(folder / "out");
  return arguments;
}

void writeLayers(const Directory& folder, const std::vector<LayerPages>& layers) {
  for (std::size_t i = 0; i < layers.size(); i++) writeLayer(folder / ("l" + std::to_string(i)), layers[i]);
}

// Runs of holes, zeros and bytes; the lowest layer at the end.
std::vector<LayerPages> randomStack(unsigned seed) {
  std::mt19937 random(seed);
  std::vector<LayerPages> layers(1 + random() % 6, LayerPages(1 + random() % 700, HOLE));
  for (LayerPages& layer : layers)
    for (std::size_t at = 0; at < layer.size();) {
      const std::size_t run = 1 + random() % (random() % 4 == 0 ? 300 : 8);
      const int what = random() % 2 == 0   ? HOLE
                       : random() % 3 == 0 ? ZERO
                                           : static_cast<int>(1 + random() % 255);
      for (std::size_t i = 0; i < run && at < layer.size(); i++) layer[at++] = what;
    }
  // An upper layer without a hole is refused.
  for (std::size_t i = 0; i + 1 < layers.size(); i++) layers[i].front() = HOLE;
  return layers;
}

class RandomStack : public testing::TestWithParam<unsigned> {};

TEST_P(RandomStack, ShowsTheSameWhenItIsFlat) {
  const Directory folder;
  const auto layers = randomStack(GetParam());
  writeLayers(folder, layers);
  const auto result = run(flattenArguments(folder, layers.size()));
  ASSERT_EQ(result.code, cli::OK) << result.err;
  const std::string shown = shownBy(layers);
  EXPECT_TRUE(contentOf(folder / "out") == shown);
  const std::vector<bool> holes = holesOf(folder / "out");
  for (std::size_t page = 0; page < holes.size(); page++)
    ASSERT_EQ(holes[page], shown[page * PAGE] == 0) << "page " << page;
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomStack, testing::Range(1u, 21u));

// The bytes of the base must not come back where the guest has written zeros.
TEST(Flatten, ZerosThatAreDataHideTheBase) {
  const Directory folder;
  writeLayers(folder, {{HOLE, ZERO, 7, HOLE}, {1, 2, 3, 4}});
  ASSERT_EQ(run(flattenArguments(folder, 2)).code, cli::OK);
  EXPECT_TRUE(contentOf(folder / "out") == shownBy({{1, ZERO, 7, 4}}));
}

TEST(Flatten, TheResultIsOpenToNoMoreThanTheLayersAre) {
  const Directory folder;
  writeLayers(folder, {{HOLE, 1}, {2, 3}});
  ASSERT_EQ(chmod((folder / "l1").c_str(), 0640), 0);
  ASSERT_EQ(chmod((folder / "l0").c_str(), 0604), 0);
  ASSERT_EQ(run(flattenArguments(folder, 2)).code, cli::OK);
  struct stat status {};
  ASSERT_EQ(stat((folder / "out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(Flatten, AFileThatIsThereStaysUnlessItIsForced) {
  const Directory folder;
  writeLayers(folder, {{HOLE, 1}, {2, 3}});
  folder.file("out", "mine");
  auto arguments = flattenArguments(folder, 2);
  const auto refused = run(arguments);
  EXPECT_EQ(refused.code, cli::USAGE);
  EXPECT_THAT(refused.err, AllOf(HasSubstr(folder / "out"), HasSubstr("--force")));
  EXPECT_EQ(contentOf(folder / "out"), "mine");
  arguments.emplace_back("--force");
  ASSERT_EQ(run(arguments).code, cli::OK);
  EXPECT_TRUE(contentOf(folder / "out") == shownBy({{2, 1}}));
  EXPECT_THAT(folder.content(), UnorderedElementsAre("l0", "l1", "out"));
}

// A base may be replaced by what it has become: it is read to its end before.
TEST(Flatten, ALayerCanBeReplaced) {
  const Directory folder;
  writeLayers(folder, {{HOLE, 1}, {2, 3}});
  ASSERT_EQ(run({"flatten", folder / "l0", "--over", folder / "l1", folder / "l1", "--force"}).code, cli::OK);
  EXPECT_TRUE(contentOf(folder / "l1") == shownBy({{2, 1}}));
}

TEST(Flatten, LayersOfNoOneMemoryAreRefusedByName) {
  const Directory folder;
  writeLayers(folder, {{HOLE, 1}, {2, 3}});
  writeLayer(folder / "large", {1, 2, 3});
  writeLayer(folder / "full", {1, 2});
  const std::string odd = folder.file("odd", std::string(5000, 'x'));
  const auto flat = [&](const std::string& top, const std::string& base) {
    const auto result = run({"flatten", top, "--over", base, folder / "out"});
    EXPECT_EQ(result.code, cli::USAGE);
    EXPECT_FALSE(std::filesystem::exists(folder / "out"));
    return result.err;
  };
  EXPECT_THAT(flat(folder / "l0", folder / "large"),
              AllOf(HasSubstr(folder / "large"), HasSubstr("12288"), HasSubstr("8192")));
  EXPECT_THAT(flat(folder / "l0", folder / "l0"), HasSubstr("same file"));
  EXPECT_THAT(flat(folder / "l0", folder / "missing"), HasSubstr(folder / "missing"));
  EXPECT_THAT(flat(folder / "full", folder / "l1"), AllOf(HasSubstr(folder / "full"), HasSubstr("no hole")));
  EXPECT_THAT(flat(odd, folder / "l1"), AllOf(HasSubstr("5000"), HasSubstr("4096")));
  std::vector<std::string> many{"flatten", folder / "l0", folder / "out"};
  for (int i = 0; i < 32; i++) many.insert(many.end(), {"--over", folder / "l1"});
  EXPECT_THAT(run(many).err, HasSubstr("33 layers are more than the 32"));
}

TEST(Flatten, AFolderThatTakesNoFileIsNamed) {
  const Directory folder;
  writeLayers(folder, {{HOLE, 1}, {2, 3}});
  const auto result = run({"flatten", folder / "l0", "--over", folder / "l1", folder / "none/out"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "none/out"), HasSubstr("folder")));
}

TEST(Flatten, ADiskThatIsFullIsSaidAndNothingIsLeft) {
  Image image(1 << 20);
  const MountedFile small(image, "tmpfs-small");
  if (!small.whyNot().empty()) GTEST_SKIP() << small.whyNot();
  const Directory folder;
  writeLayers(folder, {LayerPages(2048, 5)});
  const std::filesystem::path out = std::filesystem::path(small.path()).parent_path() / "out";
  const auto result = run({"flatten", folder / "l0", out});
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(out), HasSubstr("No space left on device")));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out.parent_path()), {}), 1)
      << "the image alone";
}

// A base whose reads stand still where a test wants it.
class StalledFlatten : public testing::Test {
 protected:
  static constexpr std::uint64_t BYTES = 8 << 20;
  ~StalledFlatten() noexcept override {}  // KJ's may throw

  void SetUp() override {
    if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
    LayerPages top(BYTES / PAGE, HOLE);
    top[1] = 9;
    writeLayer(folder / "top", top);
    base.emplace(image, FuseFile::Cache::none);
    base->stall(BYTES / 2);
    command.emplace(
        std::vector<std::string>{"flatten", folder / "top", "--over", base->path(), folder / "out"});
    while (base->waiting() == 0) std::this_thread::yield();
  }
  void goOn() { base->goOn(); }

  const Directory folder;
  Image image{BYTES};
  std::optional<FuseFile> base;
  std::optional<Command> command;
};

TEST_F(StalledFlatten, IsInterruptedAndNothingIsLeft) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    if (!command.has_value()) {
      base->stall(BYTES / 2);
      command.emplace(
          std::vector<std::string>{"flatten", folder / "top", "--over", base->path(), folder / "out"});
      while (base->waiting() == 0) std::this_thread::yield();
    }
    command->signal(number);
    goOn();
    const auto result = command->finish();
    EXPECT_EQ(result.code, cli::FAILED);
    EXPECT_THAT(result.err, HasSubstr("interrupted; nothing is written"));
    EXPECT_THAT(folder.content(), ElementsAre("top"));
    command.reset();
  }
}

TEST_F(StalledFlatten, IsKilledAndNothingIsLeft) {
  command->signal(SIGKILL);
  goOn();
  EXPECT_EQ(command->finish().code, 128 + SIGKILL);
  EXPECT_THAT(folder.content(), ElementsAre("top"));
}

TEST_F(StalledFlatten, FailsWhenALayerChanges) {
  const kj::AutoCloseFd top(open((folder / "top").c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(pwrite(top, "x", 1, PAGE), 1);
  goOn();
  const auto result = command->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "top"), HasSubstr("has changed")));
  EXPECT_THAT(folder.content(), ElementsAre("top"));
}

TEST_F(StalledFlatten, FailsWhereALayerCannotBeRead) {
  base->fail(EIO, BYTES / 2);
  goOn();
  const auto result = command->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(base->path()), HasSubstr("offset"), HasSubstr(strerror(EIO))));
  EXPECT_THAT(folder.content(), ElementsAre("top"));
}

TEST_F(StalledFlatten, NeitherReplacesAFileThatCameMeanwhile) {
  folder.file("out", "mine");
  goOn();
  const auto result = command->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "out"), HasSubstr("--force")));
  EXPECT_EQ(contentOf(folder / "out"), "mine");
}

bool isShared(const std::string& path) {
  const kj::AutoCloseFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  alignas(struct fiemap) std::array<char, sizeof(struct fiemap) + sizeof(fiemap_extent)> space{};
  auto* map = reinterpret_cast<struct fiemap*>(space.data());
  map->fm_length = FIEMAP_MAX_OFFSET;
  map->fm_extent_count = 1;
  return ioctl(file, FS_IOC_FIEMAP, map) == 0 && map->fm_mapped_extents == 1 &&
         (map->fm_extents[0].fe_flags & FIEMAP_EXTENT_SHARED) != 0;
}

class Reflink : public testing::TestWithParam<std::string> {};

TEST_P(Reflink, SharesTheBytesOfTheLayers) {
  Image image(4 << 20);
  image.zero(1 << 20, 1 << 20);
  const MountedFile base(image, GetParam());
  if (!base.whyNot().empty()) GTEST_SKIP() << base.whyNot();
  const std::filesystem::path folder = std::filesystem::path(base.path()).parent_path();
  LayerPages top(image.bytes() / PAGE, HOLE);
  top[3] = 9;
  writeLayer(folder / "top", top);
  ASSERT_EQ(run({"flatten", folder / "top", "--over", base.path(), folder / "out"}).code, cli::OK);
  std::string shown(image.data(), image.bytes());
  shown.replace(3 * PAGE, PAGE, PAGE, '\x09');
  EXPECT_TRUE(contentOf(folder / "out") == shown);
  EXPECT_TRUE(holesOf(folder / "out")[(1 << 20) / PAGE]);
  ASSERT_EQ(run({"flatten", base.path(), folder / "copy"}).code, cli::OK);
  EXPECT_TRUE(isShared(folder / "copy"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Reflink, testing::Values("btrfs", "xfs"),
                         [](const auto& info) { return info.param; });

// A layer on a device, or from a file system that shows no holes, is flattened like any other.
class AnyBase : public testing::TestWithParam<std::string> {};

TEST_P(AnyBase, IsFlattened) {
  Image image(4 << 20);
  image.hole(1 << 20, 1 << 20);
  const MountedFile base(image, GetParam());
  if (!base.whyNot().empty()) GTEST_SKIP() << base.whyNot();
  const Directory folder;
  LayerPages top(image.bytes() / PAGE, HOLE);
  top[0] = ZERO;
  writeLayer(folder / "top", top);
  const auto result = run({"flatten", folder / "top", "--over", base.path(), folder / "out"});
  ASSERT_EQ(result.code, cli::OK) << result.err;
  std::string shown(image.data(), image.bytes());
  shown.replace(0, PAGE, PAGE, '\0');
  EXPECT_TRUE(contentOf(folder / "out") == shown);
  EXPECT_TRUE(holesOf(folder / "out")[0]);
  EXPECT_TRUE(holesOf(folder / "out")[(1 << 20) / PAGE]);
}

INSTANTIATE_TEST_SUITE_P(Kinds, AnyBase, testing::Values("squashfs", "erofs", "overlay", "tmpfs", "loop"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace faultline::test
