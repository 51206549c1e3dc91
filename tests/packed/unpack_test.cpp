// `faultline unpack`, and what info and verify say of packed images: the shipped tool.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/errors.h"
#include "tests/cli/command.h"
#include "tests/image/layer_file.h"
#include "tests/packed/made_file.h"
#include "tests/packed/zstd.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

// A packed image of 256 KiB whose second frame is damaged.
class DamagedImage : public testing::Test {
 protected:
  void SetUp() override {
    folder.file("raw", textOf(256 << 10));
    ASSERT_EQ(run({"pack", folder / "raw", folder / "packed"}).code, cli::OK);
    std::fstream file(folder / "packed", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(folder / "packed") * 2 / 5));
    file.put('\x55');
  }
  const Directory folder;
};

TEST_F(DamagedImage, IsNotUnpackedAndNothingIsLeft) {
  const auto result = run({"unpack", folder / "packed", folder / "out"});
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr(folder / "packed"), HasSubstr("frame 1"), HasSubstr("copy it anew")));
  EXPECT_THAT(folder.content(), UnorderedElementsAre("raw", "packed"));
}

TEST_F(DamagedImage, IsFoundByVerifyAndByZstd) {
  const auto result = run({"verify", folder / "packed"});
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "packed"), HasSubstr("frame 1")));
  if (whyNoZstd().empty()) {
    EXPECT_NE(runZstd("zstd", {"-t", "-q", folder / "packed"}), 0);
  }
}

TEST_F(DamagedImage, ReplacesNoFile) {
  folder.file("out", "mine");
  EXPECT_EQ(run({"unpack", folder / "packed", folder / "out", "--force"}).code, cli::FAILED);
  EXPECT_EQ(contentOf(folder / "out"), "mine");
}

TEST(Unpack, RefusesWhatIsNoPackedImage) {
  const Directory folder;
  folder.file("raw", textOf(PAGE));
  const auto result = run({"unpack", folder / "raw", folder / "out"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "raw"), HasSubstr("faultline pack")));
  EXPECT_EQ(run({"unpack", folder / "missing", folder / "out"}).code, cli::USAGE);
  EXPECT_THAT(folder.content(), UnorderedElementsAre("raw"));
}

// Files of zstd and pzstd themselves, which have no table.
TEST(Unpack, RefusesFilesOfZstdAndPzstd) {
  if (const std::string why = whyNoZstd(); !why.empty()) GTEST_SKIP() << why;
  const Directory folder;
  folder.file("raw", textOf(32 << 20));
  ASSERT_EQ(runZstd("zstd", {"-q", folder / "raw", "-o", folder / "by-zstd"}), 0);
  ASSERT_EQ(runZstd("pzstd", {"-q", "-p", "2", folder / "raw", "-o", folder / "by-pzstd"}), 0);
  for (const char* writer : {"zstd", "pzstd"}) {
    const auto result = run({"unpack", folder / ("by-" + std::string(writer)), folder / "out"});
    EXPECT_EQ(result.code, cli::USAGE);
    EXPECT_THAT(result.err, AllOf(HasSubstr("written by " + std::string(writer)), HasSubstr("no table"),
                                  HasSubstr("zstd -d")));
  }
}

TEST(Unpack, TakesFilesOfOtherWriters) {
  const Directory folder;
  const std::string content = textOf(3 * PAGE) + std::string(5 * PAGE, '\0') + textOf(100);
  folder.file("packed",
              fileOf({frameOf(content.substr(0, 4 * PAGE)), frameOf(content.substr(4 * PAGE)), frameOf("")}));
  const auto result = run({"unpack", folder / "packed", folder / "out", "--json"});
  ASSERT_EQ(result.code, cli::OK) << result.err;
  EXPECT_TRUE(contentOf(folder / "out") == content);
  EXPECT_EQ(json::parse(result.out)["data_bytes"], 3 * PAGE + 100);
  const json told = json::parse(run({"info", "--json", folder / "packed"}).out)[0];
  EXPECT_EQ(told["packed"]["by_faultline"], false);
}

TEST(Unpack, AFileThatIsThereStaysUnlessItIsForced) {
  const Directory folder;
  folder.file("raw", textOf(PAGE));
  ASSERT_EQ(run({"pack", folder / "raw", folder / "packed"}).code, cli::OK);
  folder.file("out", "mine");
  EXPECT_EQ(run({"unpack", folder / "packed", folder / "out"}).code, cli::USAGE);
  EXPECT_EQ(contentOf(folder / "out"), "mine");
  EXPECT_EQ(run({"unpack", folder / "packed", folder / "out", "--force"}).code, cli::OK);
  EXPECT_EQ(contentOf(folder / "out"), textOf(PAGE));
}

// --- info, verify, flatten ---

TEST(PackedInfo, TellsProgramsWhatAPackedImageIs) {
  const Directory folder;
  writeLayer(folder / "diff", {HOLE, 5, 0, HOLE, HOLE, 6});
  writeLayer(folder / "base", LayerPages(6, 7));
  ASSERT_EQ(run({"pack", folder / "diff", "--over", folder / "base", folder / "packed"}).code, cli::OK);
  const json told = json::parse(run({"info", "--json", "--zeros", folder / "packed"}).out)[0];
  EXPECT_EQ(told["kind"], "packed diff");
  EXPECT_EQ(told["bytes"], 6 * PAGE);
  EXPECT_EQ(told["data_bytes"], 3 * PAGE);
  EXPECT_EQ(told["hole_bytes"], 3 * PAGE);
  EXPECT_EQ(told["zero_bytes"], PAGE);
  EXPECT_EQ(told["extents"], 2);
  EXPECT_EQ(told["lowest_layer"], false);
  EXPECT_EQ(told["upper_layer"], true);
  EXPECT_EQ(told["packed"]["bytes"], std::filesystem::file_size(folder / "packed"));
  EXPECT_EQ(told["packed"]["frames"], 1);
  EXPECT_EQ(told["packed"]["largest_frame_bytes"], 6 * PAGE);
  EXPECT_EQ(told["packed"]["by_faultline"], true);
  EXPECT_EQ(told["packed"]["differential"], true);
  EXPECT_EQ(json::parse(run({"info", "--json", folder / "diff"}).out)[0]["packed"], nullptr);
}

TEST(PackedInfo, TellsPeople) {
  const Directory folder;
  folder.file("raw", textOf(256 << 10));
  ASSERT_EQ(run({"pack", folder / "raw", folder / "packed"}).code, cli::OK);
  EXPECT_THAT(run({"info", folder / "packed"}).out,
              AllOf(HasSubstr("packed image"), HasSubstr("256.0 KiB"),
                    HasSubstr("4 frames of at most 64.0 KiB"), HasSubstr("lowest layer")));
}

// Its fingerprint is that of the plain file: a working set that was recorded with one is good for the other.
TEST(PackedInfo, TheFingerprintIsThatOfTheContent) {
  const Directory folder;
  folder.file("raw", textOf((3 << 20) + 5000));
  ASSERT_EQ(run({"pack", folder / "raw", folder / "packed"}).code, cli::OK);
  const json told = json::parse(run({"info", "--json", folder / "raw", folder / "packed"}).out);
  EXPECT_EQ(told[0]["fingerprint"], told[1]["fingerprint"]);
}

TEST(PackedInfo, SaysWhyAPackedImageCannotBeUsed) {
  const Directory folder;
  folder.file("packed", fileOf({frameOf(textOf(PAGE))}, {.checksums = false}));
  for (const char* command : {"info", "verify"}) {
    const auto result = run({command, folder / "packed"});
    EXPECT_EQ(result.code, cli::USAGE) << command;
    EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "packed"), HasSubstr("no checksums"))) << command;
  }
}

TEST(PackedVerify, ReadsEveryFrame) {
  const Directory folder;
  folder.file("raw", textOf(256 << 10));
  ASSERT_EQ(run({"pack", folder / "raw", folder / "packed"}).code, cli::OK);
  EXPECT_THAT(run({"verify", folder / "packed"}).out, HasSubstr("4 frames"));
  EXPECT_EQ(json::parse(run({"verify", "--json", folder / "packed"}).out)["bytes"], 256 << 10);
}

// Their packed bytes would be taken for the memory.
TEST(PackedLayers, AreNotTakenForPlainOnes) {
  const Directory folder;
  writeLayer(folder / "diff", {HOLE, 5});
  writeLayer(folder / "base", {1, 2});
  ASSERT_EQ(run({"pack", folder / "base", folder / "packed"}).code, cli::OK);
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"verify", folder / "diff", "--over", folder / "packed"},
        {"flatten", folder / "diff", "--over", folder / "packed", folder / "out"}}) {
    const auto result = run(arguments);
    EXPECT_EQ(result.code, cli::USAGE);
    EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "packed"), HasSubstr("faultline unpack")));
  }
}

}  // namespace
}  // namespace faultline::test
