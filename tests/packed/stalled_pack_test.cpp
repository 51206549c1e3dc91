// `faultline pack` and `unpack` while a file stands still: interrupted, killed, changed. The shipped tool.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <thread>

#include "cli/errors.h"
#include "tests/cli/command.h"
#include "tests/image/layer_file.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t BYTES = 64 << 20;

class Stalled : public testing::TestWithParam<std::string> {
 public:
  ~Stalled() noexcept override = default;

 protected:
  void SetUp() override {
    if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
    if (GetParam() == "pack") {
      image.emplace(BYTES);
    } else {
      const Image plain(BYTES);
      const Directory place;
      ASSERT_EQ(run({"pack", plain.path(), place / "packed"}).code, cli::OK);
      const std::string packed = contentOf(place / "packed");
      image.emplace(packed.size());
      image->write(0, packed.data(), packed.size());
    }
    file.emplace(*image, FuseFile::Cache::none);
    start();
  }

  // Returns when it waits in the middle of the file.
  void start() {
    file->stall(image->bytes() / 2);
    command.emplace(std::vector<std::string>{GetParam(), file->path(), folder / "out"});
    while (file->waiting() == 0) std::this_thread::yield();
  }

  const Directory folder;
  std::optional<Image> image;
  std::optional<FuseFile> file;
  std::optional<Command> command;
};

TEST_P(Stalled, IsInterruptedAndNothingIsLeft) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    if (!command.has_value()) start();
    command->signal(number);
    file->goOn();
    const auto result = command->finish();
    EXPECT_EQ(result.code, cli::FAILED);
    EXPECT_THAT(result.err, HasSubstr("interrupted; nothing is written"));
    EXPECT_THAT(folder.content(), IsEmpty());
    command.reset();
  }
}

TEST_P(Stalled, IsKilledAndNothingIsLeft) {
  command->signal(SIGKILL);
  file->goOn();
  EXPECT_EQ(command->finish().code, 128 + SIGKILL);
  EXPECT_THAT(folder.content(), IsEmpty());
}

TEST_P(Stalled, FailsWhereTheFileCannotBeRead) {
  file->fail(EIO, image->bytes() / 2);
  file->goOn();
  const auto result = command->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(file->path()), HasSubstr("offset"), HasSubstr(strerror(EIO))));
  EXPECT_THAT(folder.content(), IsEmpty());
}

TEST_P(Stalled, ReplacesNoFileThatCameMeanwhile) {
  folder.file("out", "mine");
  file->goOn();
  const auto result = command->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(folder / "out"), HasSubstr("--force")));
  EXPECT_EQ(contentOf(folder / "out"), "mine");
}

// The bytes of an unpacked image are checked anyway.
class StalledPack : public Stalled {};

TEST_P(StalledPack, FailsWhenTheFileChanges) {
  const kj::AutoCloseFd below(open(image->path().c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(pwrite(below, "x", 1, 0), 1);
  file->goOn();
  const auto result = command->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, AllOf(HasSubstr(file->path()), HasSubstr("has changed")));
  EXPECT_THAT(folder.content(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Commands, Stalled, testing::Values("pack", "unpack"),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Commands, StalledPack, testing::Values("pack"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace faultline::test
