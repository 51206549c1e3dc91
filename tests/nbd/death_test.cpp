// Fetcher, shards and coordinator killed while a server is asked: no page is lost, and every byte is right.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "rpc/fetch_ring.h"
#include "tests/nbd/nbd_target.h"
#include "tests/nbd/way_to_server.h"

namespace faultline::test {
namespace {

std::size_t countOf(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) count++;
  return count;
}

// The server stalls while they are killed: the questions are on their way then.
class DeathWhileAsking : public NbdTarget {
 protected:
  void SetUp() override {
    NbdTarget::SetUp();
    if (!IsSkipped()) restore(serving(*source_));
  }
  void touchAndStall() {
    source_->stall();
    touch(10, 30);
    awaitQueued();
  }
  void goOn() {
    source_->goOn();
    expectAll();
  }
};

TEST_F(DeathWhileAsking, OfTheFetcher) {
  touchAndStall();
  kill(figuresOf(*server_).pid, SIGKILL);
  goOn();
  await([&] { return figuresOf(*server_).restarts == 1; });
}

TEST_F(DeathWhileAsking, OfTheCoordinator) {
  touchAndStall();
  kill(server_->coordinatorPid(), SIGKILL);
  goOn();
  server_->reconnect();
  server_->restore();
}

TEST_F(DeathWhileAsking, OfEveryShard) {
  touchAndStall();
  for (const unsigned index : {0u, 1u}) kill(server_->shardPid(index), SIGKILL);
  goOn();
}

TEST_F(DeathWhileAsking, OfAllOfThemAndTheServer) {
  touchAndStall();
  killAll(*server_);
  source_->kill();
  source_->start();
  goOn();
}

// More of them than may die at a question: that each was killed from outside says nothing about what it was asked.
TEST(NbdDeath, FetchersThatAreKilledOneAfterTheOtherLoseNoPage) {
  for (const char* program : {"nbdkit", "python3"})
    if (const std::string why = NbdServer::whyNot(program); !why.empty()) GTEST_SKIP() << why;
  Image image(8 << 20);
  const NbdServer source(NbdServer::ofFile(image.path()));
  const std::uint64_t held = 51 * CHUNK_PAGES * SMALL;  // no sample, by which the export is known, is there
  NbdServer way(wayTo(source, held, held + 1, Bad::hold));
  Server server(image, serving(way, {.more = {"--source-patience", "120s"}}));
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  for (std::size_t killed = 0; killed < rpc::FetchRing::MOST_TRIES + 2; killed++) {
    await([&] { return countOf(way.log(), "held") > killed; });
    killFetcher(server);
  }
  way.kill();
  way.startAs(wayTo(source));
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.inMemory(page)) << page;
  expectContent(target, {});
}

// Images that are packed are unpacked by the same process: it is started anew with the rights that a server's source wants, and
// the questions of before are answered.
TEST(NbdRights, AFetcherGetsThemWhenASourceWantsThem) {
  if (const std::string why = NbdServer::whyNot(); !why.empty()) GTEST_SKIP() << why;
  Image packedImage(4 << 20), image(4 << 20);
  image.fill(0, 4096, 7);
  const PackedSource packed(packedImage);
  const NbdServer source(NbdServer::ofFile(image.path()));
  const std::string otherSocket = image.directory() + "/other";
  Server server(
      packedImage,
      serving(packed, {.more = {"--socket", otherSocket, "--memory", source.uri(), "--name", "other"}}));
  Target first(packedImage, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(first.holdsImage(0));
  const pid_t before = figuresOf(server).pid;
  Target second(image, otherSocket, SMALL);
  server.restoreNamed("other");
  expectContent(second, {});
  expectContent(first, {});
  EXPECT_NE(figuresOf(server).pid, before);
  EXPECT_EQ(figuresOf(server).restarts, 0u) << "that is no death";
}

}  // namespace
}  // namespace faultline::test
