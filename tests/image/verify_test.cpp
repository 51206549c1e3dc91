// `faultline verify`: the shipped tool.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/errors.h"
#include "tests/cli/command.h"
#include "tests/image/layer_file.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Verify, ReadsEachLayer) {
  const Directory folder;
  writeLayer(folder / "diff", {HOLE, 5, 0, HOLE});
  writeLayer(folder / "base", {1, 2, 3, 4});
  const auto result = run({"verify", folder / "diff", "--over", folder / "base", "--json"});
  ASSERT_EQ(result.code, cli::OK) << result.err;
  const json told = json::parse(result.out);
  EXPECT_EQ(told["bytes"], 4 * PAGE);
  EXPECT_EQ(told["layers"][0]["data_bytes"], 2 * PAGE);
  EXPECT_EQ(told["layers"][1]["data_bytes"], 4 * PAGE);
  EXPECT_THAT(run({"verify", folder / "base"}).out,
              AllOf(HasSubstr(folder / "base"), HasSubstr("can be read")));
}

TEST(Verify, RefusesWhatIsNoSnapshot) {
  const Directory folder;
  const std::string odd = folder.file("odd", std::string(5000, 'x'));
  writeLayer(folder / "small", {HOLE, 1});
  writeLayer(folder / "large", {1, 2, 3});
  EXPECT_EQ(run({"verify", odd}).code, cli::USAGE);
  EXPECT_THAT(run({"verify", odd}).err, AllOf(HasSubstr(odd), HasSubstr("5000")));
  const auto sizes = run({"verify", folder / "small", "--over", folder / "large"});
  EXPECT_EQ(sizes.code, cli::USAGE);
  EXPECT_THAT(sizes.err, HasSubstr(folder / "large"));
  EXPECT_EQ(run({"verify", folder / "missing"}).code, cli::USAGE);
}

class VerifyOnFuse : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_F(VerifyOnFuse, SaysWhatCannotBeRead) {
  const Image image(4 << 20);
  FuseFile file(image, FuseFile::Cache::none);
  file.fail(EIO, 3 << 20);
  const auto result = run({"verify", file.path()});
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr(file.path()), HasSubstr("offset 3145728"), HasSubstr(strerror(EIO))));
}

TEST_F(VerifyOnFuse, SaysThatAFileChanges) {
  Image image(4 << 20);
  FuseFile file(image, FuseFile::Cache::none);
  file.stall(2 << 20);
  Command command({"verify", file.path()});
  while (file.waiting() == 0) std::this_thread::yield();
  const kj::AutoCloseFd below(open(image.path().c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(pwrite(below, "x", 1, 0), 1);
  file.goOn();
  const auto result = command.finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(file.path()), HasSubstr("has changed")));
}

}  // namespace
}  // namespace faultline::test
