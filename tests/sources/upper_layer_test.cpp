// Whose holes are believed: each file system, and what files lie there.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "image/extent_walk.h"
#include "image/upper_layer.h"
#include "tests/sources/mounted_file.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t MIB = 1u << 20;

using Extents = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

kj::AutoCloseFd opened(const std::string& path, int flags = O_RDONLY) {
  return kj::AutoCloseFd(open(path.c_str(), flags | O_CLOEXEC));
}

std::string whyNot(const std::string& path) {
  return image::whyNotUpper(opened(path), path).value_or("");
}

Extents dataOf(const std::string& path, std::uint64_t bytes) {
  Extents data;
  const auto file = opened(path);
  image::ExtentWalk walk(file, 0, bytes);
  while (const auto extent = walk.next())
    if (!extent->hole) data.emplace_back(extent->offset, extent->size);
  return data;
}

// A layer as a VMM that tracks its writes has it: pages, some of them zeros, and holes.
class DifferentialImage : public Image {
 public:
  static constexpr std::uint64_t BYTES = 16 * MIB;
  DifferentialImage() : Image(BYTES) {
    hole(0, BYTES);
    fill(MIB, 4096, 7);
    zero(2 * MIB, 4096);           // between holes
    zero(3 * MIB, 2 * MIB);        // many
    fill(7 * MIB, MIB - 8192, 9);  // and nothing up to the end
  }
  static Extents data() { return {{MIB, 4096}, {2 * MIB, 4096}, {3 * MIB, 2 * MIB}, {7 * MIB, MIB - 8192}}; }
};

class BelievedFileSystem : public testing::TestWithParam<std::string> {};
class OtherFileSystem : public testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(BelievedFileSystem, KeepsZerosAndHolesAndTakesAnUpperLayer) {
  const DifferentialImage image;
  const MountedFile file(image, GetParam());
  if (!file.whyNot().empty()) GTEST_SKIP() << file.whyNot();
  EXPECT_EQ(whyNot(file.path()), "");
  EXPECT_EQ(dataOf(file.path(), image.bytes()), DifferentialImage::data());
  file.makeCold();
  EXPECT_EQ(dataOf(file.path(), image.bytes()), DifferentialImage::data());
}

INSTANTIATE_TEST_SUITE_P(Kinds, BelievedFileSystem,
                         testing::Values("ext4", "ext4-readonly", "xfs", "btrfs", "btrfs-zstd", "tmpfs",
                                         "tmpfs-readonly", "overlay-upper"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(OtherFileSystem, IsRefusedWithTheReason) {
  const DifferentialImage image;
  const MountedFile file(image, GetParam().first);
  if (!file.whyNot().empty()) GTEST_SKIP() << file.whyNot();
  const std::string why = whyNot(file.path());
  EXPECT_NE(why.find(GetParam().second), std::string::npos) << why;
  EXPECT_NE(why.find("faultline flatten"), std::string::npos) << why;
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, OtherFileSystem,
    testing::Values(std::pair{"squashfs", "squashfs shows zeros that are data as holes"},
                    std::pair{"erofs", "erofs shows holes as data"}, std::pair{"loop", "no regular file"},
                    std::pair{"ext4-1k", "a hole could end inside a page"},
                    std::pair{"ext4-1k-readonly", "a hole could end inside a page"},
                    std::pair{"tmpfs-huge", "shows more as data than was written"},
                    std::pair{"tmpfs-huge-readonly", "shows more as data than was written"},
                    std::pair{"overlay-lower",
                              "makes no unnamed file in the same folder on the same file system"}),
    [](const auto& info) {
      std::string name = info.param.first;
      std::erase(name, '-');
      return name;
    });

TEST(UpperLayer, OneOnFuseThatHasNoHolesIsRefused) {
  if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  const DifferentialImage image;
  const FuseFile file(image);
  EXPECT_NE(whyNot(file.path()).find("it has no hole"), std::string::npos) << whyNot(file.path());
}

TEST(UpperLayer, OneWithoutAHoleIsRefused) {
  const Image image(MIB);
  EXPECT_NE(whyNot(image.path()).find("it has no hole"), std::string::npos) << whyNot(image.path());
}

// Nothing has changed since the layer below.
TEST(UpperLayer, OneThatIsAHoleIsTaken) {
  Image image(MIB);
  image.hole(0, MIB);
  EXPECT_EQ(whyNot(image.path()), "");
}

TEST(UpperLayer, IsFoundByASymbolicLink) {
  const DifferentialImage image;
  const std::string folder = image.directory() + "/elsewhere", link = folder + "/link";
  std::filesystem::create_directory(folder);
  std::filesystem::create_symlink(image.path(), link);
  EXPECT_EQ(whyNot(link), "");
}

TEST(UpperLayer, NothingIsLeftOfTheLook) {
  const DifferentialImage image;
  ASSERT_EQ(whyNot(image.path()), "");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(image.directory()), {}), 1);
}

// A read of such space brings zeros into the page cache, and the file system takes them for data.
void expectRefused(const std::string& path) {
  const std::string cold = whyNot(path);
  EXPECT_NE(cold.find("never written"), std::string::npos) << cold;
  const auto file = opened(path);
  std::vector<char> bytes(DifferentialImage::BYTES);
  ASSERT_EQ(pread(file, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  EXPECT_NE(dataOf(path, bytes.size()), DifferentialImage::data()) << "no reason to refuse it";
  const std::string read = whyNot(path);
  EXPECT_NE(read.find("never written"), std::string::npos) << read;
}

TEST(UpperLayer, OneWithSpaceThatWasNeverWrittenIsRefused) {
  const DifferentialImage image;
  const MountedFile mounted(image, "ext4");
  if (!mounted.whyNot().empty()) GTEST_SKIP() << mounted.whyNot();
  ASSERT_EQ(fallocate(opened(mounted.path(), O_RDWR), 0, 5 * MIB, MIB), 0);
  expectRefused(mounted.path());
}

// xfs allocates behind the end of a file that is written, and such space stays when the file grows over it.
TEST(UpperLayer, OneThatGrewOnXfsIsRefused) {
  const DifferentialImage image;
  const MountedFile mounted(image, "xfs-grown");
  if (!mounted.whyNot().empty()) GTEST_SKIP() << mounted.whyNot();
  expectRefused(mounted.path());
}

}  // namespace
}  // namespace faultline::test
