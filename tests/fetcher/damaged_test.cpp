// Packed images whose bytes cannot be had: an error on the pages concerned, and on no other; never wrong bytes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fetcher/fetched_target.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

TEST(DamagedPacked, PagesOfADamagedFrameAreLostAlone) {
  Image image(4 << 20);
  const PackedSource source(image);
  Server server(image, serving(source));
  source.damage(20);  // in the first frame
  Target target(image, server.socket(), SMALL);
  server.restore();
  EXPECT_EQ(target.touch(0), Touch::sigbus);
  EXPECT_EQ(target.touch(CHUNK_PAGES - 1), Touch::sigbus);
  for (std::uint64_t page = CHUNK_PAGES; page < target.pages(); page++)
    ASSERT_TRUE(target.holdsImage(page)) << page;
  await([&] { return !server.eventWith({"is poisoned", source.path(), "Bad message"}).empty(); });
}

// It was looked at as the command began, and has become another file since.
TEST(DamagedPacked, AFileThatIsNoImageIsRefusedAtTheHandshake) {
  Image image(4 << 20);
  const PackedSource source(image);
  const std::string log = image.directory() + "/log";
  Server server(image, serving(source, {.logFile = log}));
  source.damage(source.fileBytes() - 1);  // the end of its table
  Target target(image, server.socket(), SMALL);
  awaitRefusal(log);
  EXPECT_THAT(textOf(log), HasSubstr(source.path() + " can't be used as a packed image"));
  EXPECT_EQ(server.status().getRestores().size(), 0u);
}

class StalledPacked : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
    file_ = fileAsImage(source_);
    fuse_ = std::make_unique<FuseFile>(*file_, FuseFile::Cache::none);
  }
  ServerOptions options(const std::string& patience) {
    return {.more = {"--source-patience", patience}, .memory = fuse_->path()};
  }

  Image image_{4 << 20};
  const PackedSource source_{image_};
  std::unique_ptr<Image> file_;
  std::unique_ptr<FuseFile> fuse_;
};

TEST_F(StalledPacked, ItsPagesWaitAndComeRight) {
  Server server(image_, options("60s"));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  fuse_->stall();
  auto waiting = target.readLater(500);
  await([&] { return fuse_->waiting() > 0; });
  EXPECT_TRUE(target.holdsImage(1)) << "what is cached is served meanwhile";
  fuse_->goOn();
  waiting.get();
  expectContent(target, {});
}

TEST_F(StalledPacked, PastThePatienceItsPagesAreLostAlone) {
  Server server(image_, options("300ms"));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  fuse_->stall();
  EXPECT_EQ(target.touch(500), Touch::sigbus);
  fuse_->goOn();
  for (std::uint64_t page = 0; page < target.pages(); page++) {
    if (page == 500) continue;
    ASSERT_TRUE(target.holdsImage(page)) << page;
  }
  await([&] { return !server.eventWith({"page 500 is poisoned", "--source-patience"}).empty(); });
}

// That is for errors: an answer takes its time.
TEST_F(StalledPacked, WithoutPatienceWhatComesIsWaitedFor) {
  Server server(image_, options("0s"));
  Target target(image_, server.socket(), SMALL);
  auto restore = server.restore();
  for (std::uint64_t page = 0; page < target.pages() / 2; page += CHUNK_PAGES)
    ASSERT_TRUE(target.holdsImage(page)) << page;
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  expectContent(target, {});
}

TEST_F(StalledPacked, WithoutPatienceTheFirstErrorLosesThePage) {
  Server server(image_, options("0s"));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  fuse_->fail(EIO);
  EXPECT_EQ(target.touch(500), Touch::sigbus);
  fuse_->mend();
  EXPECT_TRUE(target.holdsImage(900));
}

TEST_F(StalledPacked, ErrorsThatPassAreWaitedFor) {
  Server server(image_, options("60s"));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  fuse_->fail(EIO);
  auto waiting = target.readLater(500);
  await([&] { return fuse_->failed() > 2; });
  fuse_->mend();
  waiting.get();
  expectContent(target, {});
}

// Nothing that serves more than one restore waits for one source.
TEST_F(StalledPacked, AnotherSourceIsFetchedMeanwhile) {
  Image other(4 << 20);
  other.fill(0, 4096, 7);
  const PackedSource whole(other);
  const std::string otherSocket = image_.directory() + "/other";
  ServerOptions both = options("60s");
  both.more.insert(both.more.end(), {"--socket", otherSocket, "--memory", whole.path(), "--name", "other"});
  Server server(image_, both);
  Target stalled(image_, server.socket(), SMALL);
  server.restore();
  fuse_->stall();
  Reads waiting = readChunks(stalled, 0, 64);
  await([&] { return fuse_->waiting() > 3; });
  Target target(other, otherSocket, SMALL);
  server.restoreNamed("other");
  expectContent(target, {});
  fuse_->goOn();
  finish(waiting);
  expectContent(stalled, {});
}

}  // namespace
}  // namespace faultline::test
