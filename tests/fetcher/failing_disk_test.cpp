// A cache whose disk takes its bytes, and loses them as it writes them.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "tests/fetcher/packed_source.h"
#include "tests/recovery/recovery_test.h"
#include "tests/sources/mounted_file.h"

namespace faultline::test {
namespace {

// An ext4 that has given space away which the disk below it, a loop device over a full tmpfs, does not have.
class FailingDisk : public testing::Test {
 protected:
  ~FailingDisk() noexcept override {}  // KJ's may throw

  void SetUp() override {
    if (!disk_.whyNot().empty()) GTEST_SKIP() << disk_.whyNot();
    folder_ = std::filesystem::path(disk_.path()).parent_path();
    // Before there is an error: it is told to each that has something of the file system open by then.
    open_ = kj::AutoCloseFd(open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  // Has the kernel write all that is there to be written, and fail; and the fetcher learn it.
  void writeBack() {
    ASSERT_NE(syncfs(open_.get()), 0) << "the disk has taken all of it";
    ASSERT_EQ(errno, EIO);
    await([&] { return textOf(log_).find("a cache could not be written to the disk") != std::string::npos; });
  }
  ServerOptions onIt(const PackedSource& source) {
    return serving(source, {.more = {"--cache-dir", folder_}, .logFile = log_});
  }
  static rpc::EndReason failureOf(Server& server, rpc::Restore::Client& restore) {
    return server.wait(restore.infoRequest().send()).getInfo().getFailure();
  }

  Image small_{1 << 20};
  const MountedFile disk_{small_, "full"};
  const std::string log_ = small_.directory() + "/log";
  std::string folder_;
  kj::AutoCloseFd open_;
};

TEST_F(FailingDisk, EachRestoreThatRestsOnTheCacheFails) {
  Image image(24 << 20);
  const PackedSource source(image);
  Server server(image, onIt(source));
  Target first(image, server.socket(), SMALL);
  auto one = server.restore();
  const std::uint64_t half = first.pages() / 2;
  for (std::uint64_t page = 0; page < half; page++) ASSERT_TRUE(first.holdsImage(page)) << page;
  // A fault is answered a moment before its chunk is kept.
  await([&] { return figuresOf(server).cachedBytes == image.bytes() / 2; });
  Target second(image, server.socket(), SMALL);
  auto other = server.restore(1);
  EXPECT_TRUE(second.holdsImage(1)) << "from the cache, which nobody knows yet to be lost";
  writeBack();
  EXPECT_EQ(second.touch(2), Touch::sigbus) << "of what is cached, too";
  await([&] { return failureOf(server, other) == rpc::EndReason::SOURCE_CHANGED; });
  EXPECT_EQ(first.touch(half), Touch::sigbus);
  await([&] { return failureOf(server, one) == rpc::EndReason::SOURCE_CHANGED; });
  EXPECT_FALSE(server.eventWith({"vm", "could not be written to the disk", source.path()}).empty());
  EXPECT_TRUE(first.holdsImage(half - 1)) << "what had come before";
  // Nobody begins with it: the next restore has a cache of its own.
  Target third(image, server.socket(), SMALL);
  auto late = server.restore(2);
  EXPECT_TRUE(third.holdsImage(0));
  EXPECT_EQ(failureOf(server, late), rpc::EndReason::NOT_ENDED);
}

// It is told what was written by one that is gone.
TEST_F(FailingDisk, IsNoticedByTheNextFetcher) {
  Image image(24 << 20);
  const PackedSource source(image);
  Server server(image, onIt(source));
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  for (std::uint64_t page = 0; page < target.pages() / 2; page++)
    ASSERT_TRUE(target.holdsImage(page)) << page;
  killFetcher(server);
  writeBack();
  EXPECT_EQ(target.touch(target.pages() / 2), Touch::sigbus);
  await([&] { return failureOf(server, restore) == rpc::EndReason::SOURCE_CHANGED; });
}

}  // namespace
}  // namespace faultline::test
