// Servers that go while pages of 2 MiB are waited for, each of which is 32 reads: of a page there is all or nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

class HugeNbd : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = NbdServer::whyNot(); !why.empty()) GTEST_SKIP() << why;
    if (!hugePagesAvailable(64))
      GTEST_SKIP() << "no 64 free huge pages; echo 256 > /proc/sys/vm/nr_hugepages";
    source_ = std::make_unique<NbdServer>(NbdServer::ofFile(image_.path()));
  }
  void TearDown() override {
    target_ = nullptr;
    server_ = nullptr;
  }
  void begin(const std::string& patience) {
    server_ = std::make_unique<Server>(image_, serving(*source_, {.more = {"--source-patience", patience}}));
    target_ = std::make_unique<Target>(image_, server_->socket(), HUGE);
    server_->restore();
    EXPECT_TRUE(target_->holdsImage(0));
  }
  // Threads that wait for pages, whose reads are on their way.
  void touchAndStall() {
    source_->stall();
    for (std::uint64_t page = 1; page < 5; page++) waiting_.push_back(target_->readLater(page));
    await([&] { return target_->queued().total >= waiting_.size(); });
  }
  void expectAll() {
    finish(waiting_);
    expectContent(*target_, {});
  }
  void expectAllBut(std::uint64_t lost) const {
    for (std::uint64_t page = 0; page < target_->pages(); page++)
      ASSERT_TRUE(page == lost || target_->holdsImage(page)) << page;
  }

  Image image_{8 * HUGE};
  std::unique_ptr<NbdServer> source_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Target> target_;
  Reads waiting_;
};

TEST_F(HugeNbd, PagesWaitForAServerThatWasKilled) {
  begin("60s");
  touchAndStall();
  source_->kill();
  source_->start();
  expectAll();
  EXPECT_GE(figuresOf(*server_).reconnects, 1u);
}

TEST_F(HugeNbd, EveryProcessMayDieWithTheServer) {
  begin("60s");
  touchAndStall();
  killAll(*server_);
  source_->kill();
  source_->start();
  expectAll();
}

TEST_F(HugeNbd, PastThePatienceAPageIsLostAlone) {
  begin("300ms");
  source_->kill();
  EXPECT_EQ(target_->touch(5), Touch::sigbus);
  EXPECT_TRUE(target_->holdsImage(0)) << "what was fetched is served meanwhile";
  source_->start();
  expectAllBut(5);
  EXPECT_THAT(server_->eventWith({"is poisoned", "--source-patience"}), HasSubstr(source_->uri()));
}

TEST_F(HugeNbd, AnotherContentFailsTheRestore) {
  begin("60s");
  Image other(image_.bytes());
  other.fill(0, 4096, 7);
  source_->kill();
  source_->startAs(NbdServer::ofFile(other.path()));
  EXPECT_EQ(target_->touch(5), Touch::sigbus) << "no byte of the other";
  awaitSourceChanged(*server_);
}

}  // namespace
}  // namespace faultline::test
