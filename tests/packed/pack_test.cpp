// `faultline pack`: the shipped tool, beside zstd's own.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/errors.h"
#include "tests/cli/command.h"
#include "tests/cli/terminal.h"
#include "tests/image/layer_file.h"
#include "tests/packed/made_file.h"
#include "tests/packed/zstd.h"
#include "tests/sources/mounted_file.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr std::uint64_t FRAME = 64 << 10;

json packed(const Directory& folder, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "pack");
  arguments.insert(arguments.end(), {folder / "packed", "--json"});
  const auto result = run(arguments);
  EXPECT_EQ(result.code, cli::OK) << result.err;
  return json::parse(result.out);
}

void unpack(const Directory& folder) {
  const auto result = run({"unpack", folder / "packed", folder / "out"});
  ASSERT_EQ(result.code, cli::OK) << result.err;
}

std::uint64_t sizeOf(const std::string& path) {
  return std::filesystem::file_size(path);
}

// Bytes that cannot be packed.
std::string noise(std::size_t bytes, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::string text(bytes, '\0');
  for (char& byte : text) byte = static_cast<char>(random());
  return text;
}

// --- what is packed comes back ---

struct Content {
  const char* name;
  std::string bytes;
};

class RoundTrip : public testing::TestWithParam<Content> {};

TEST_P(RoundTrip, GivesTheVeryBytesBackHereAndByZstd) {
  if (const std::string why = whyNoZstd(); !why.empty()) GTEST_SKIP() << why;
  const Directory folder;
  const std::string& bytes = GetParam().bytes;
  folder.file("raw", bytes);
  const json told = packed(folder, {folder / "raw"});
  EXPECT_EQ(told["bytes"], bytes.size());
  EXPECT_EQ(told["packed_bytes"], sizeOf(folder / "packed"));
  EXPECT_EQ(told["differential"], false);
  EXPECT_EQ(runZstd("zstd", {"-t", "-q", folder / "packed"}), 0);
  EXPECT_TRUE(zstdUnpacked(folder / "packed") == bytes);
  unpack(folder);
  EXPECT_TRUE(contentOf(folder / "out") == bytes);
  EXPECT_EQ(run({"verify", folder / "packed"}).code, cli::OK);
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, RoundTrip,
    testing::Values(Content{"OneByte", "x"}, Content{"APage", textOf(PAGE)}, Content{"AFrame", textOf(FRAME)},
                    Content{"AByteLessThanAFrame", textOf(FRAME - 1)},
                    Content{"AByteMoreThanAFrame", textOf(FRAME + 1)}, Content{"2MiB", textOf(2 << 20)},
                    Content{"APageMoreThan2MiB", textOf((2 << 20) + PAGE)},
                    Content{"SeveralPieces", textOf((5 << 20) + 12'345)},
                    Content{"Dense", noise((3 << 20) + PAGE)},
                    Content{"ZerosThatAreData", std::string((4 << 20) + PAGE, '\0')},
                    Content{"ZerosBesideNoise", noise(PAGE) + std::string(3 << 20, '\0') + noise(5000)}),
    [](const auto& info) { return info.param.name; });

class RandomImage : public testing::TestWithParam<unsigned> {};

// Runs of holes, zeros and bytes; pages of zeros are holes of a full image in the end.
TEST_P(RandomImage, GivesBytesAndHolesBack) {
  std::mt19937 random(GetParam());
  LayerPages pages(1 + random() % 3000, HOLE);
  for (std::size_t at = 0; at < pages.size();) {
    const std::size_t run = 1 + random() % (random() % 4 == 0 ? 1000 : 20);
    const int what = random() % 2 == 0 ? HOLE : static_cast<int>(random() % 3 == 0 ? 0 : 1 + random() % 255);
    for (std::size_t i = 0; i < run && at < pages.size(); i++) pages[at++] = what;
  }
  const Directory folder;
  writeLayer(folder / "raw", pages);
  packed(folder, {folder / "raw"});
  unpack(folder);
  EXPECT_TRUE(contentOf(folder / "out") == shownBy({pages}));
  if (whyNoZstd().empty()) {
    EXPECT_TRUE(zstdUnpacked(folder / "packed") == shownBy({pages}));
  }
  const std::vector<bool> holes = holesOf(folder / "out");
  for (std::size_t page = 0; page < pages.size(); page++) ASSERT_EQ(holes[page], pages[page] <= 0) << page;
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomImage, testing::Range(1u, 11u));

TEST(Pack, HolesTakeNoRoom) {
  const Directory folder;
  writeLayer(folder / "raw", LayerPages((64 << 20) / PAGE, HOLE));
  const json told = packed(folder, {folder / "raw"});
  EXPECT_EQ(told["zero_bytes"], 64 << 20);
  EXPECT_EQ(told["frames"], 32);
  EXPECT_LT(told["packed_bytes"], 8192);
  unpack(folder);
  EXPECT_EQ(sizeOf(folder / "out"), 64u << 20);
  EXPECT_THAT(holesOf(folder / "out"), ::testing::Each(true));
}

TEST(Pack, AHigherLevelIsSmaller) {
  const Directory folder;
  folder.file("raw", textOf(4 << 20));
  const auto bytesAt = [&](const std::string& level) {
    const json told = packed(folder, {folder / "raw", "--force", "--level", level});
    EXPECT_EQ(told["level"], std::stoi(level));
    unpack(folder);
    EXPECT_TRUE(contentOf(folder / "out") == textOf(4 << 20));
    std::filesystem::remove(folder / "out");
    return told["packed_bytes"].get<std::uint64_t>();
  };
  EXPECT_LT(bytesAt("19"), bytesAt("1"));
  bytesAt("22");
  EXPECT_EQ(run({"pack", folder / "raw", folder / "packed", "--level", "23"}).code, cli::USAGE);
}

TEST(Pack, SaysHowLargeItIs) {
  const Directory folder;
  folder.file("raw", textOf(2 << 20));
  const auto result = run({"pack", folder / "raw", folder / "packed"});
  EXPECT_EQ(result.code, cli::OK);
  EXPECT_THAT(result.out, AllOf(HasSubstr(folder / "packed"), HasSubstr("2.0 MiB in "), HasSubstr("KiB")));
  EXPECT_EQ(result.err, "") << "no terminal, no progress";
}

TEST(Pack, OnATerminalALineTellsHowFarItIs) {
  const Directory folder;
  folder.file("raw", textOf(2 << 20));
  const auto lineOf = [&](const std::vector<std::string>& arguments) {
    Terminal terminal(arguments);
    EXPECT_EQ(terminal.finish(), cli::OK) << terminal.text();
    EXPECT_THAT(terminal.text(), HasSubstr("\r\033[K")) << "the line is taken away";
    return terminal.text();
  };
  EXPECT_THAT(lineOf({"pack", folder / "raw", folder / "packed"}), HasSubstr(" % of 2.0 MiB, "));
  EXPECT_THAT(lineOf({"unpack", folder / "packed", folder / "out"}), HasSubstr(" % of 2.0 MiB, "));
}

class PackFrom : public testing::TestWithParam<std::string> {};

TEST_P(PackFrom, GivesTheBytesBack) {
  Image image(4 << 20);
  image.hole(1 << 20, 1 << 20);
  const MountedFile file(image, GetParam());
  if (!file.whyNot().empty()) GTEST_SKIP() << file.whyNot();
  const Directory folder;
  packed(folder, {file.path()});
  unpack(folder);
  EXPECT_TRUE(contentOf(folder / "out") == std::string(image.data(), image.bytes()));
  EXPECT_TRUE(holesOf(folder / "out")[(1 << 20) / PAGE]);
}

INSTANTIATE_TEST_SUITE_P(Kinds, PackFrom,
                         testing::Values("ext4-1k", "xfs", "btrfs", "squashfs", "erofs", "tmpfs", "loop"),
                         [](const auto& info) {
                           return info.param == "ext4-1k" ? std::string("Ext4OfSmallBlocks") : info.param;
                         });

// --- differential images ---

json infoOf(const std::string& path) {
  const auto result = run({"info", "--json", path});
  EXPECT_EQ(result.code, cli::OK) << result.err;
  return json::parse(result.out)[0];
}

// Zeros that are data would show the base's bytes if they became holes, and holes would hide it.
TEST(PackedDiff, KeepsHolesAndZerosApart) {
  const Directory folder;
  LayerPages diff(3000, HOLE), base(3000, 7);
  for (const std::size_t page : {0, 1, 17, 18, 40, 700, 2999}) diff[page] = page % 2 == 0 ? 0 : 5;
  for (std::size_t page = 1024; page < 1200; page++) diff[page] = 0;
  writeLayer(folder / "diff", diff);
  writeLayer(folder / "base", base);
  const json told = packed(folder, {folder / "diff", "--over", folder / "base"});
  EXPECT_EQ(told["differential"], true);
  EXPECT_EQ(told["hole_bytes"], (3000 - 7 - 176) * PAGE);
  unpack(folder);
  EXPECT_TRUE(contentOf(folder / "out") == shownBy({diff}));
  const std::vector<bool> holes = holesOf(folder / "out");
  for (std::size_t page = 0; page < diff.size(); page++) ASSERT_EQ(holes[page], diff[page] == HOLE) << page;
  if (whyNoZstd().empty()) {
    EXPECT_TRUE(zstdUnpacked(folder / "packed") == shownBy({diff}));
  }
}

class RandomDiff : public testing::TestWithParam<unsigned> {};

TEST_P(RandomDiff, ComesBackPageByPage) {
  std::mt19937 random(GetParam());
  LayerPages pages(2 + random() % 3000, HOLE);
  for (std::size_t at = 1; at < pages.size();) {
    const std::size_t run = 1 + random() % (random() % 4 == 0 ? 1000 : 5);
    const int what = random() % 2 == 0 ? HOLE : static_cast<int>(random() % 3 == 0 ? 0 : 1 + random() % 255);
    for (std::size_t i = 0; i < run && at < pages.size(); i++) pages[at++] = what;
  }
  const Directory folder;
  writeLayer(folder / "diff", pages);
  writeLayer(folder / "base", LayerPages(pages.size(), 9));
  packed(folder, {folder / "diff", "--over", folder / "base"});
  unpack(folder);
  EXPECT_TRUE(contentOf(folder / "out") == shownBy({pages}));
  const std::vector<bool> holes = holesOf(folder / "out");
  for (std::size_t page = 0; page < pages.size(); page++) ASSERT_EQ(holes[page], pages[page] == HOLE) << page;
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomDiff, testing::Range(1u, 11u));

TEST(PackedDiff, KnowsItsBaseWhetherThatIsPackedOrNot) {
  const Directory folder;
  writeLayer(folder / "diff", {HOLE, 5, 0, HOLE});
  writeLayer(folder / "base", {1, 2, 3, 4});
  ASSERT_EQ(run({"pack", folder / "base", folder / "base.packed"}).code, cli::OK);
  const std::string fingerprint = infoOf(folder / "base")["fingerprint"];
  EXPECT_EQ(infoOf(folder / "base.packed")["fingerprint"], fingerprint);
  EXPECT_EQ(packed(folder, {folder / "diff", "--over", folder / "base"})["base_fingerprint"], fingerprint);
  EXPECT_EQ(
      packed(folder, {folder / "diff", "--over", folder / "base.packed", "--force"})["base_fingerprint"],
      fingerprint);
  EXPECT_EQ(infoOf(folder / "packed")["packed"]["base_fingerprint"], fingerprint);
}

// Both layers below tell what it lies over, packed or not.
TEST(PackedDiff, KnowsAllThatItLiesOver) {
  const Directory folder;
  writeLayer(folder / "top", {HOLE, 5, 0, HOLE});
  writeLayer(folder / "middle", {HOLE, 6, HOLE, 7});
  writeLayer(folder / "base", {1, 2, 3, 4});
  const auto over = [&](const std::string& middle, const std::string& base) {
    return packed(folder, {folder / "top", "--over", folder / middle, "--over", folder / base,
                           "--force"})["base_fingerprint"];
  };
  ASSERT_EQ(run({"pack", folder / "middle", "--over", folder / "base", folder / "middle.packed"}).code,
            cli::OK);
  ASSERT_EQ(run({"pack", folder / "base", folder / "base.packed"}).code, cli::OK);
  const json plain = over("middle", "base");
  EXPECT_EQ(over("middle.packed", "base"), plain);
  EXPECT_EQ(over("middle", "base.packed"), plain);
  EXPECT_EQ(over("middle.packed", "base.packed"), plain);
  EXPECT_NE(over("base", "base"), plain);
}

TEST(PackedDiff, IsRefusedWhereItCannotLieOverItsBase) {
  const Directory folder;
  writeLayer(folder / "diff", {HOLE, 1});
  writeLayer(folder / "full", {1, 2});
  writeLayer(folder / "large", {1, 2, 3});
  const auto over = [&](const std::string& top, const std::vector<std::string>& below) {
    std::vector<std::string> arguments = {"pack", folder / top, folder / "packed"};
    for (const std::string& each : below) arguments.insert(arguments.end(), {"--over", folder / each});
    const auto result = run(arguments);
    EXPECT_EQ(result.code, cli::USAGE);
    EXPECT_FALSE(std::filesystem::exists(folder / "packed"));
    return result.err;
  };
  EXPECT_THAT(over("diff", {"large"}),
              AllOf(HasSubstr("8192"), HasSubstr("12288"), HasSubstr(folder / "large")));
  EXPECT_THAT(over("diff", {"full", "large"}), AllOf(HasSubstr("12288"), HasSubstr(folder / "large")));
  EXPECT_THAT(over("full", {"diff"}), AllOf(HasSubstr(folder / "full"), HasSubstr("no hole")));
  EXPECT_THAT(over("diff", {"missing"}), HasSubstr(folder / "missing"));
}

// --- files ---

TEST(Pack, AFileThatIsThereStaysUnlessItIsForced) {
  const Directory folder;
  folder.file("raw", textOf(PAGE));
  folder.file("packed", "mine");
  const auto refused = run({"pack", folder / "raw", folder / "packed"});
  EXPECT_EQ(refused.code, cli::USAGE);
  EXPECT_THAT(refused.err, AllOf(HasSubstr(folder / "packed"), HasSubstr("--force")));
  EXPECT_EQ(contentOf(folder / "packed"), "mine");
  packed(folder, {folder / "raw", "--force"});
  unpack(folder);
  EXPECT_THAT(folder.content(), UnorderedElementsAre("raw", "packed", "out"));
}

TEST(Pack, TheResultIsOpenToNoMoreThanTheSourceIs) {
  const Directory folder;
  folder.file("raw", textOf(PAGE));
  ASSERT_EQ(chmod((folder / "raw").c_str(), 0640), 0);
  packed(folder, {folder / "raw"});
  unpack(folder);
  for (const char* name : {"packed", "out"}) {
    struct stat status {};
    ASSERT_EQ(stat((folder / name).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777 & ~0640u, 0u) << name;
  }
}

TEST(Pack, APackedImageIsNotPackedAgain) {
  const Directory folder;
  folder.file("raw", textOf(PAGE));
  packed(folder, {folder / "raw"});
  const auto result = run({"pack", folder / "packed", folder / "twice"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "packed"), HasSubstr("faultline unpack")));
}

TEST(Pack, ADiskThatIsFullIsSaidAndNothingIsLeft) {
  Image image(1 << 20);
  const MountedFile small(image, "tmpfs-small");
  if (!small.whyNot().empty()) GTEST_SKIP() << small.whyNot();
  const Directory folder;
  folder.file("raw", noise(8 << 20));
  const std::filesystem::path out = std::filesystem::path(small.path()).parent_path() / "packed";
  const auto result = run({"pack", folder / "raw", out});
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(out), HasSubstr("No space left on device")));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out.parent_path()), {}), 1)
      << "the image alone";
}

}  // namespace
}  // namespace faultline::test
