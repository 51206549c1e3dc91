// Fetcher, shards and coordinator killed while pages are fetched: no page is lost, and every byte is right.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "process/process.h"
#include "tests/fetcher/fetched_target.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

// The packed file stalls while the processes are killed: the questions are on their way then.
class DeathWhileFetching : public FetchedTarget {
 protected:
  void SetUp() override {
    if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
    file_ = fileAsImage(source_);
    fuse_ = std::make_unique<FuseFile>(*file_, FuseFile::Cache::none);
    restore(serving(fuse_->path()));
  }
  // Threads that wait for pages of as many chunks, which are being read.
  void touchAndStall() {
    fuse_->stall();
    touch(10, 30);
    await([&] { return fuse_->waiting() > 1; });
  }
  void goOn() {
    fuse_->goOn();
    expectAll();
  }

  const PackedSource source_{image_};
  std::unique_ptr<Image> file_;
  std::unique_ptr<FuseFile> fuse_;
};

// A process that is killed in a read of such a file ends when that is answered.
TEST_F(DeathWhileFetching, OfTheFetcher) {
  touchAndStall();
  const pid_t fetcher = figuresOf(*server_).pid;
  kill(fetcher, SIGKILL);
  goOn();
  await([&] { return figuresOf(*server_).restarts == 1; });
}

TEST_F(DeathWhileFetching, OfTheCoordinator) {
  touchAndStall();
  kill(server_->coordinatorPid(), SIGKILL);
  goOn();
  server_->reconnect();
  server_->restore();
}

TEST_F(DeathWhileFetching, OfEveryShard) {
  touchAndStall();
  for (const unsigned index : {0u, 1u}) kill(server_->shardPid(index), SIGKILL);
  goOn();
}

TEST_F(DeathWhileFetching, OfAllOfThem) {
  touchAndStall();
  killAll(*server_);
  goOn();
}

// Fetched bytes are there for the successors, and for those that come later. An answer comes before its chunk is kept, so a
// thread of the fetcher may lose the one that it has, and no more.
TEST(FetcherDeath, CostsNoChunkThatWasKept) {
  Image image(4 << 20);
  const PackedSource source(image);
  Server server(image, serving(source));
  Target target(image, server.socket(), SMALL);
  server.restore();
  for (std::uint64_t page = 0; page < target.pages() / 2; page++)
    ASSERT_TRUE(target.holdsImage(page)) << page;
  const std::uint64_t fetched = image.bytes() / 2;
  await([&] { return figuresOf(server).cachedBytes >= fetched; });
  killFetcher(server);
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  killFetcher(server);
  Target late(image, server.socket(), SMALL);
  server.restore(1);
  for (std::uint64_t page = 0; page < late.pages() / 2; page++) ASSERT_TRUE(late.holdsImage(page)) << page;
  EXPECT_LE(figuresOf(server).bytes, fetched / 4);
  expectContent(target, {});
  expectContent(late, {});
}

// Its rights are those of the threat model, as the kernel tells them.
TEST(FetcherProcess, HasNoRightsButThoseItNeeds) {
#ifdef FAULTLINE_SANITIZED
  GTEST_SKIP() << "a sanitizer needs more rights than are left to a fetcher";
#endif
  Image image(4 << 20);
  const PackedSource source(image);
  Server server(image, serving(source));
  Target target(image, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  const pid_t pid = figuresOf(server).pid;
  const std::string status = textOf("/proc/" + std::to_string(pid) + "/status");
  for (const char* line : {"Seccomp:\t2\n", "NoNewPrivs:\t1\n", "CapPrm:\t0000000000000000\n",
                           "CapEff:\t0000000000000000\n", "CapAmb:\t0000000000000000\n"})
    EXPECT_THAT(status, testing::HasSubstr(line));
  EXPECT_EQ(uffdsOf(pid), 0u);
}

// Whatever is installed over it meanwhile: a package of another version, say.
TEST(FetcherDeath, TheNextOneIsOfTheServicesBuild) {
  namespace fs = std::filesystem;
  Image image(4 << 20);
  const PackedSource source(image);
  const std::string programs = image.directory() + "/bin";
  fs::create_directory(programs);
  for (const char* program : {"faultline", "faultline-coordinator", "faultline-shard", "faultline-fetcher"})
    fs::copy_file(process::siblingExecutable(program), fs::path(programs) / program);
  Server server(image, serving(source, {.programs = programs}));
  Target target(image, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  for (const char* program : {"faultline-coordinator", "faultline-shard", "faultline-fetcher"}) {
    fs::copy_file("/bin/false", programs + "/new");
    fs::rename(programs + "/new", fs::path(programs) / program);
  }
  killFetcher(server);
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  expectContent(target, {});
  EXPECT_NE(figuresOf(server).pid, 0);
}

TEST(FetcherDeath, AStoppedFetcherIsReplaced) {
  Image image(4 << 20);
  const PackedSource source(image);
  Server server(image, serving(source, {.watchdogMs = WATCHDOG_MS}));
  Target target(image, server.socket(), SMALL);
  server.restore();
  kill(figuresOf(server).pid, SIGSTOP);
  expectContent(target, {});
  EXPECT_NE(server.eventWith({"the fetcher", "is killed: it has stopped answering"}), "");
}

// A stack of packed layers, through every death in turn, populated meanwhile.
TEST(FetcherDeath, AStackOutlivesEveryProcess) {
  Stack stack = Stack::random(8 << 20, 100);
  const PackedSource source(stack, PackedSource::Lowest::packed);
  Server server(stack.shown(), serving(source));
  Target target(stack.shown(), server.socket(), SMALL);
  auto restore = server.restore();
  server.wait(restore.prefaultRequest().send());
  killFetcher(server);
  kill(server.shardPid(0), SIGKILL);
  EXPECT_TRUE(target.holdsImage(1));
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  kill(server.shardPid(1), SIGKILL);
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  expectContent(target, {});
  Target late(stack.shown(), server.socket(), SMALL);
  expectContent(late, {});
}

}  // namespace
}  // namespace faultline::test
