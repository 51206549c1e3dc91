// NBD servers that go, come back, stall, fail, and come back as another: pages wait as long as the operator says, and no byte is
// wrong.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "process/clock.h"
#include "tests/nbd/nbd_target.h"
#include "tests/nbd/way_to_server.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

class LostNbd : public NbdTarget {
 protected:
  // Events about the source that have these words.
  std::size_t told(const std::string& words) {
    std::size_t count = 0;
    for (auto event : server_->status().getEvents()) {
      const std::string text = event.getText().cStr();
      if (text.find(source_->uri() + ": ") == 0 && text.find(words) != std::string::npos) count++;
    }
    return count;
  }
};

TEST_F(LostNbd, PagesWaitForAServerThatWasKilled) {
  begin("60s");
  source_->kill();
  touch(10, 40);
  awaitQueued();
  source_->start();
  expectAll();
  EXPECT_GE(figuresOf(*server_).reconnects, 1u);
}

// While the pages wait, and when they have come.
TEST_F(LostNbd, EventsTellThatItIsGoneAndThatItIsBack) {
  begin("60s");
  source_->kill();
  touch(10, 1);
  await([&] { return told("the connection is lost") == 1; });
  EXPECT_EQ(told("is connected to again"), 0u);
  source_->start();
  expectAll();
  await([&] { return told("is connected to again") == 1; });
}

// The fetcher that has lost it dies as well: the next one's connection is told.
TEST_F(LostNbd, ItsReturnIsToldThoughTheFetcherHasDiedMeanwhile) {
  begin("60s");
  source_->kill();
  touch(10, 1);
  await([&] { return told("the connection is lost") == 1; });
  killFetcher(*server_);
  source_->start();
  expectAll();
  await([&] { return told("is connected to again") == 1; });
}

// Of which other events would be pushed out.
TEST_F(LostNbd, OneThatComesAndGoesIsNotToldEachTime) {
  begin("60s");
  const std::uint64_t before = process::nowNs();
  for (std::uint64_t round = 1; round <= 5; round++) {
    source_->kill();
    touch(10 * round, 1);
    awaitQueued();
    source_->start();
    finish(waiting_);
    await([&] { return figuresOf(*server_).reconnects >= round; });
  }
  const std::uint64_t losses = told("the connection is lost"),
                      most = 1 + (process::nowNs() - before) / 10'000'000'000;
  EXPECT_GE(losses, 1u);
  EXPECT_LE(losses, most);
}

// With questions on their way.
TEST_F(LostNbd, WhatWasUnderWayAtItsDeathIsAskedAgain) {
  begin("60s");
  for (std::uint64_t round = 0; round < 5; round++) {
    source_->stall();
    touch(10 + round * 20, 20);
    awaitQueued();
    source_->kill();
    source_->start();
    finish(waiting_);
  }
  expectAll();
}

TEST_F(LostNbd, PastThePatienceItsPagesAreLostAlone) {
  begin("300ms");
  source_->kill();
  EXPECT_EQ(target_->touch(50 * CHUNK_PAGES), Touch::sigbus);
  EXPECT_TRUE(target_->holdsImage(1)) << "what was fetched is served meanwhile";
  source_->start();
  expectContentBut(*target_, 50);
  EXPECT_THAT(server_->eventWith({"is poisoned", "--source-patience"}), HasSubstr(source_->uri()));
  EXPECT_GE(figuresOf(*server_).givenUp, 1u);
}

TEST_F(LostNbd, OneThatStallsCostsItsPagesAloneAndGoesOn) {
  Image other(4 << 20);
  other.fill(0, 4096, 7);
  const NbdServer whole(NbdServer::ofFile(other.path()));
  const std::string otherSocket = image_.directory() + "/other";
  restore(serving(*source_, {.more = {"--source-patience", "300ms", "--socket", otherSocket, "--memory",
                                      whole.uri(), "--name", "other"}}));
  source_->stall();
  auto lost = target_->touchLater(50 * CHUNK_PAGES);
  Target bystander(other, otherSocket, SMALL);
  server_->restoreNamed("other");
  expectContent(bystander, {});
  EXPECT_EQ(lost.get(), Touch::sigbus);
  source_->goOn();
  expectContentBut(*target_, 50);
}

TEST_F(LostNbd, AnotherContentFailsTheRestore) {
  begin("60s");
  replaceContent();
  expectAnotherContentToFailIt(50 * CHUNK_PAGES);
}

TEST_F(LostNbd, AnotherSizeFailsTheRestore) {
  begin("60s");
  source_->kill();
  source_->startAs(NbdServer::ofFile(image_.path(), {"truncate"}, {"truncate=4M"}));
  EXPECT_EQ(target_->touch(50 * CHUNK_PAGES), Touch::sigbus);
  awaitSourceChanged(*server_);
}

// Noticed by the next fetcher, which has no connection that was there before.
TEST_F(LostNbd, AnotherContentWhileNoFetcherLooksFailsTheRestore) {
  begin("60s");
  replaceContent();
  killFetcher(*server_);
  expectAnotherContentToFailIt(50 * CHUNK_PAGES);
}

class FailingNbd : public LostNbd {
 protected:
  void SetUp() override {
    LostNbd::SetUp();
    if (IsSkipped()) return;
    source_ = std::make_unique<NbdServer>(NbdServer::ofFile(
        image_.path(), {"error"}, {"error=EIO", "error-pread-rate=100%", "error-file=" + file()}));
  }
  std::string file() const { return image_.directory() + "/fail"; }
  void fail() const { kj::AutoCloseFd(open(file().c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)); }
  void mend() const { unlink(file().c_str()); }
};

TEST_F(FailingNbd, ErrorsThatPassAreWaitedFor) {
  begin("60s");
  fail();
  touch(50, 4);
  await([&] { return figuresOf(*server_).errors > 4; });
  mend();
  expectAll();
}

TEST_F(FailingNbd, ErrorsThatStayCostTheirPagesAlone) {
  begin("300ms");
  fail();
  EXPECT_EQ(target_->touch(50 * CHUNK_PAGES), Touch::sigbus);
  mend();
  expectContentBut(*target_, 50);
  EXPECT_EQ(figuresOf(*server_).reconnects, 0u) << "the connection was sound";
}

// Some of the reads fail, those by which it is known included.
TEST_F(FailingNbd, ErrorsNowAndThenCostNothing) {
  source_->kill();
  source_->startAs(NbdServer::ofFile(image_.path(), {"error"}, {"error=EIO", "error-pread-rate=10%"}));
  begin("60s");
  expectAll();
}

// A chunk at which the connection ends whenever it is asked for, whether it has one of the samples by which the export is known or
// not.
class KillingChunk : public testing::TestWithParam<std::uint64_t> {
 protected:
  void SetUp() override {
    for (const char* program : {"nbdkit", "python3"})
      if (const std::string why = NbdServer::whyNot(program); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_P(KillingChunk, CostsItselfAlone) {
  const std::uint64_t bad = GetParam();
  Image image(32 << 20);
  const NbdServer source(NbdServer::ofFile(image.path()));
  NbdServer way(wayTo(source));
  Server server(image, serving(way, {.more = {"--source-patience", "4s"}}));
  Target target(image, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  way.kill();
  way.startAs(wayTo(source, bad * CHUNK_PAGES * SMALL, (bad + 1) * CHUNK_PAGES * SMALL));
  auto lost = target.touchLater(bad * CHUNK_PAGES);
  expectContentBut(target, bad);
  EXPECT_EQ(lost.get(), Touch::sigbus);
}
INSTANTIATE_TEST_SUITE_P(Chunks, KillingChunk, testing::Values(50, 51), [](const auto& info) {
  return std::string(info.param == 50 ? "Sampled" : "NotSampled");
});

}  // namespace
}  // namespace faultline::test
