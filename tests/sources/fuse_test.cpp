// Memory files on a file system that has no RWF_NOWAIT, and whose store stalls and fails: with the shipped
// executables.

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "process/clock.h"
#include "tests/race/race_test.h"
#include "tests/recovery/recovery_test.h"
#include "tests/sources/refuse_io_uring.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

class Fuse : public RaceTest {
 protected:
  void SetUp() override {
    RaceTest::SetUp();
    if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  }
  static std::uint64_t errors(Server& server) {
    return server.sum(&rpc::ShardStats::Reader::getSourceErrors);
  }
  // Far apart, so that what the kernel reads ahead for one page does not bring the other.
  std::uint64_t far() const { return pages() / 2; }
};
BOTH_PAGE_SIZES(Fuse);

TEST_P(Fuse, AFileIsServed) {
  Image image(imageBytes());
  FuseFile file(image);
  Server server(image, {.memory = file.path()});
  Target target(image, server.socket(), pageSize());
  expectContent(target, {});
}

// FUSE with direct_io, 9p and virtiofs without a cache: no shared mapping.
TEST_P(Fuse, AFileThatCannotBeMappedIsServedByReads) {
  Image image(imageBytes());
  FuseFile file(image, FuseFile::Cache::none);
  Server server(image, {.memory = file.path()});
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  EXPECT_TRUE(target.holdsImage(1));
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.inMemory(page)) << page;
  expectContent(target, {});
}

// The watchdog asks for the shard while a read is under way; it may not take the wait for a hang.
TEST_P(Fuse, AReadThatStallsDelaysItsOwnPageAlone) {
  for (const bool ring : {true, false}) {
    Image image(imageBytes()), plain(imageBytes());
    FuseFile file(image);
    const std::string otherSocket = image.directory() + "/other";
    Server server(image, {.shards = 1,
                          .watchdogMs = 500,
                          .more = {"--socket", otherSocket, "--memory", plain.path(), "--name", "other"},
                          .memory = file.path(),
                          .before = ring ? std::function<void()>() : refuseIoUring});
    Target target(image, server.socket(), pageSize());
    server.restore();
    Target other(plain, otherSocket, pageSize());
    EXPECT_TRUE(target.holdsImage(0));
    const pid_t shard = server.shardPid(0);
    file.stall(far() * pageSize());
    auto slow = target.readLater(far());
    await([&] { return file.waiting() > 0; });
    EXPECT_TRUE(target.holdsImage(1)) << "the same file";
    expectContent(other, {});
    // Longer than the watchdog's patience, as the coordinator's own clock sees it: it pings twice in this
    // time.
    const std::uint64_t until = process::nowNs() + 1'500'000'000;
    await([&] {
      server.status();
      return process::nowNs() > until;
    });
    EXPECT_EQ(server.shardPid(0), shard) << "it was killed for a slow store";
    EXPECT_EQ(slow.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
    file.goOn();
    EXPECT_EQ(slow.get(), image.at(far() * pageSize()));
    expectContent(target, {});
  }
}

// A population has fewer workers than a store may have slow reads.
TEST_P(Fuse, PopulatingAStalledFileHoldsUpNoOther) {
  Image image(imageBytes()), plain(imageBytes());
  FuseFile file(image);
  const std::string otherSocket = image.directory() + "/other";
  Server server(image, {.shards = 1,
                        .workers = 1,
                        .more = {"--socket", otherSocket, "--memory", plain.path(), "--name", "other"},
                        .memory = file.path()});
  Target target(image, server.socket(), pageSize());
  auto slow = server.restore();
  Target other(plain, otherSocket, pageSize());
  auto fine = server.restoreNamed("other");
  file.stall();
  auto stalled = server.wait(slow.prefaultRequest().send()).getPrefault();
  await([&] { return file.waiting() > 0; });
  auto quick = server.wait(fine.prefaultRequest().send()).getPrefault();
  server.wait(quick.waitRequest().send());
  for (std::uint64_t page = 0; page < other.pages(); page++) ASSERT_TRUE(other.inMemory(page)) << page;
  file.goOn();
  server.wait(stalled.waitRequest().send());
  expectContent(target, {});
}

TEST_P(Fuse, AnErrorThatPassesIsNotNoticedByTheTarget) {
  Image image(imageBytes());
  FuseFile file(image);
  Server server(image, {.memory = file.path()});
  Target target(image, server.socket(), pageSize());
  server.restore();
  file.fail(EIO, far() * pageSize());
  auto read = target.readLater(far());
  await([&] { return errors(server) > 0; });
  file.mend();
  EXPECT_EQ(read.get(), image.at(far() * pageSize()));
  expectContent(target, {});
  EXPECT_EQ(server.sum(&rpc::ShardStats::Reader::getPoisoned), 0u);
}

// Told to the operator, with file and offset.
TEST_P(Fuse, AnErrorThatStaysIsAnErrorOnThatPageAlone) {
  Image image(imageBytes());
  FuseFile file(image, FuseFile::Cache::none);
  Server server(image, {.more = {"--source-patience", "200ms"}, .memory = file.path()});
  Target target(image, server.socket(), pageSize());
  server.restore();
  file.fail(EIO, far() * pageSize());
  EXPECT_EQ(target.touch(far()), Touch::sigbus);
  await([&] {
    return !server
                .eventWith({"page " + std::to_string(far()) + " is poisoned", file.path(),
                            "at offset " + std::to_string(far() * pageSize()), strerror(EIO)})
                .empty();
  });
  for (std::uint64_t page = 0; page < target.pages(); page++)
    ASSERT_TRUE(page == far() || target.holdsImage(page)) << page;
  EXPECT_EQ(server.sum(&rpc::ShardStats::Reader::getPoisoned), 1u);
  // Given back, it is a page of zeros like any other.
  target.giveBack(far());
  EXPECT_TRUE(target.isAll(far(), 0));
}

// The background reads many pages at once, and leaves those that it cannot read to the faults that may come.
TEST_P(Fuse, AnErrorInTheBackgroundIsLeftToTheFaults) {
  Image image(imageBytes());
  FuseFile file(image, FuseFile::Cache::none);
  Server server(image, {.memory = file.path()});
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  file.fail(EIO, far() * pageSize());
  auto request = restore.prefaultRequest();
  auto range = request.initRanges(1)[0];
  range.setFirst(far());
  range.setCount(1);
  auto prefault = server.wait(request.send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(errors(server), 1u);
  EXPECT_FALSE(target.inMemory(far()));
  file.mend();
  EXPECT_TRUE(target.holdsImage(far()));
}

}  // namespace
}  // namespace faultline::test
