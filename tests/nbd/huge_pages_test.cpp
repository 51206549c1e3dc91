// Servers that go while pages of 2 MiB are waited for, each of which is 32 reads: of a page there is all or nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/nbd/nbd_target.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

class HugeNbd : public NbdTarget {
 protected:
  HugeNbd() : NbdTarget(HUGE, 8 * HUGE) {}
  void SetUp() override {
    NbdTarget::SetUp();
    if (!hugePagesAvailable(64))
      GTEST_SKIP() << "no 64 free huge pages; echo 256 > /proc/sys/vm/nr_hugepages";
  }
  // Threads that wait for pages, whose reads are on their way.
  void touchAndStall() {
    source_->stall();
    for (std::uint64_t page = 1; page < 5; page++) waiting_.push_back(target_->readLater(page));
    awaitQueued();
  }
  void expectAllBut(std::uint64_t lost) const {
    for (std::uint64_t page = 0; page < target_->pages(); page++)
      ASSERT_TRUE(page == lost || target_->holdsImage(page)) << page;
  }
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
  replaceContent();
  expectAnotherContentToFailIt(5);
}

}  // namespace
}  // namespace faultline::test
