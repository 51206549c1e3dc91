// Commands that docs/layers.md calls right for a copy of a differential snapshot.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/cli/command.h"
#include "tests/image/layer_file.h"
#include "tests/sources/mounted_file.h"

namespace faultline::test {
namespace {

class Copy : public testing::TestWithParam<std::string> {};

LayerPages differential() {
  LayerPages pages(1024, HOLE);
  pages[3] = 7;
  for (std::size_t page = 100; page < 200; page++) pages[page] = 0;
  return pages;
}

TEST_P(Copy, ByTarKeepsZerosAndHoles) {
  const Image image(1 << 20);
  const MountedFile there(image, GetParam());
  if (!there.whyNot().empty()) GTEST_SKIP() << there.whyNot();
  const Directory folder;
  writeLayer(folder / "diff", differential());
  const std::string to = std::filesystem::path(there.path()).parent_path();
  ASSERT_EQ(std::system(("tar -cS -C " + folder.path() + " diff | tar -xS -C " + to).c_str()), 0);
  EXPECT_EQ(holesOf(to + "/diff"), holesOf(folder / "diff"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Copy, testing::Values("ext4", "btrfs", "tmpfs"),
                         [](const auto& info) { return info.param; });

class Clone : public testing::TestWithParam<std::string> {};

TEST_P(Clone, KeepsZerosAndHoles) {
  const Image image(1 << 20);
  const MountedFile there(image, GetParam());
  if (!there.whyNot().empty()) GTEST_SKIP() << there.whyNot();
  const std::string folder = std::filesystem::path(there.path()).parent_path();
  writeLayer(folder + "/diff", differential());
  ASSERT_EQ(std::system(("cp --reflink=always " + folder + "/diff " + folder + "/copy").c_str()), 0);
  EXPECT_EQ(holesOf(folder + "/copy"), holesOf(folder + "/diff"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Clone, testing::Values("btrfs", "xfs"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace faultline::test
