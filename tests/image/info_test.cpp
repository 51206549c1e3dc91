// `faultline info`: the shipped tool.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "cli/errors.h"
#include "tests/cli/command.h"
#include "tests/image/layer_file.h"
#include "tests/sources/mounted_file.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Info, TellsProgramsWhatAFileIs) {
  const Directory folder;
  writeLayer(folder / "diff", {HOLE, 5, 0, HOLE, HOLE, 6});
  const auto result = run({"info", "--json", "--zeros", folder / "diff"});
  ASSERT_EQ(result.code, cli::OK) << result.err;
  const json all = json::parse(result.out);
  ASSERT_EQ(all.size(), 1u);
  const json& file = all[0];
  EXPECT_EQ(file["path"], folder / "diff");
  EXPECT_EQ(file["kind"], "raw file");
  EXPECT_EQ(file["bytes"], 6 * PAGE);
  EXPECT_EQ(file["data_bytes"], 3 * PAGE);
  EXPECT_EQ(file["hole_bytes"], 3 * PAGE);
  EXPECT_EQ(file["zero_bytes"], PAGE);
  EXPECT_EQ(file["extents"], 2);
  EXPECT_EQ(file["lowest_layer"], true);
  EXPECT_EQ(file["upper_layer"], true);
  EXPECT_EQ(file["why_no_upper_layer"], nullptr);
  EXPECT_EQ(file["fingerprint"].get<std::string>().size(), 16u);
}

TEST(Info, ReadsTheBytesOnlyWhenItIsAsked) {
  const Directory folder;
  writeLayer(folder / "full", {1, 0});
  EXPECT_EQ(json::parse(run({"info", "--json", folder / "full"}).out)[0]["zero_bytes"], nullptr);
}

TEST(Info, SaysWhyAFileCanOnlyBeTheLowestLayer) {
  const Directory folder;
  writeLayer(folder / "full", {1, 2});
  const json file = json::parse(run({"info", "--json", folder / "full"}).out)[0];
  EXPECT_EQ(file["upper_layer"], false);
  EXPECT_THAT(file["why_no_upper_layer"].get<std::string>(), HasSubstr("no hole"));
  EXPECT_THAT(run({"info", folder / "full"}).out,
              AllOf(HasSubstr("lowest layer"),
                    HasSubstr(folder / "full" + " can't be an upper layer: it has no hole")));
}

TEST(Info, IsATableForPeople) {
  const Directory folder;
  writeLayer(folder / "base", LayerPages(512, 1));
  LayerPages pages(512, HOLE);
  pages[7] = 1;
  writeLayer(folder / "diff", pages);
  const auto result = run({"info", folder / "base", folder / "diff"});
  EXPECT_EQ(result.code, cli::OK);
  EXPECT_THAT(result.out, AllOf(HasSubstr("IMAGE"), HasSubstr("2.0 MiB"), HasSubstr("4.0 KiB"),
                                HasSubstr("any layer"), HasSubstr(folder / "diff")));
}

TEST(Info, TellsTheRestWhereOneIsMissing) {
  const Directory folder;
  writeLayer(folder / "there", {1, HOLE});
  const auto result = run({"info", folder / "missing", folder / "there"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, HasSubstr(folder / "missing"));
  EXPECT_THAT(result.out, AllOf(HasSubstr(folder / "there"), Not(HasSubstr("missing"))));
}

TEST(Info, NamesWithControlCharactersReachNoTerminal) {
  const Directory folder;
  const std::string name = folder / "a\033[31m";
  writeLayer(name, {1, 2});
  EXPECT_THAT(run({"info", name}).out, Not(HasSubstr("\033")));
  EXPECT_EQ(json::parse(run({"info", "--json", name}).out)[0]["path"], name);
}

// A pipe would have the command wait for a writer.
TEST(Info, APipeIsRefusedAtOnce) {
  const Directory folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  const auto result = run({"info", folder / "pipe"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, HasSubstr("no regular file"));
}

class InfoOn : public testing::TestWithParam<std::tuple<const char*, const char*, const char*>> {};

TEST_P(InfoOn, NamesWhereItLies) {
  Image image(4 << 20);
  image.hole(1 << 20, 1 << 20);
  const auto& [kind, named, fileSystem] = GetParam();
  const MountedFile file(image, kind);
  if (!file.whyNot().empty()) GTEST_SKIP() << file.whyNot();
  const json told = json::parse(run({"info", "--json", file.path()}).out)[0];
  EXPECT_EQ(told["kind"], named);
  EXPECT_EQ(told["file_system"], fileSystem);
  EXPECT_EQ(told["bytes"], image.bytes());
}

// File systems that are mounted in another mount namespace: the magic numbers of statfs(2).
INSTANTIATE_TEST_SUITE_P(Kinds, InfoOn,
                         testing::Values(std::tuple("ext4", "raw file", "0xef53"),
                                         std::tuple("squashfs", "raw file", "0x73717368"),
                                         std::tuple("loop", "block device", "")),
                         [](const auto& info) { return std::get<0>(info.param); });

}  // namespace
}  // namespace faultline::test
