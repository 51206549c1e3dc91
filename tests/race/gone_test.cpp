// Memory that leaves a region, in whatever way and whenever: what is left is served, what has gone is waited
// for by nothing, and what comes in its place never gets the source's bytes.

#include <gmock/gmock.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "tests/race/race_test.h"
#include "tests/support/child_process.h"

namespace faultline::test {
namespace {

void* start(const Target& target, std::uint64_t page) {
  return const_cast<unsigned char*>(target.address(page));
}
// Gives memory up as balloons of VMMs do it that know nothing of a userfaultfd.
void mapOver(const Target& target, std::uint64_t page, std::uint64_t count = 1) {
  ASSERT_NE(mmap(start(target, page), count * target.pageSize(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
}
void registerAnew(const Target& target, std::uint64_t page) {
  uffdio_register request{};
  request.range = {reinterpret_cast<std::uint64_t>(start(target, page)), target.pageSize()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(ioctl(target.uffd(), UFFDIO_REGISTER, &request), 0);
}

class Gone : public OneTarget {
 protected:
  // Returns as it has ended; the pages that it leaves missing.
  std::uint64_t prefault(std::vector<shm::PageRange> ranges = {}) {
    auto request = restore_.prefaultRequest();
    auto list = request.initRanges(static_cast<unsigned>(ranges.size()));
    for (unsigned i = 0; i < ranges.size(); i++) {
      list[i].setFirst(ranges[i].first);
      list[i].setCount(ranges[i].count);
    }
    auto job = server_->wait(request.send()).getPrefault();
    server_->wait(job.waitRequest().send());
    return server_->wait(job.progressRequest().send()).getMissing();
  }
  rpc::RestoreInfo::Reader info() {
    answer_ = std::make_unique<capnp::Response<rpc::Restore::InfoResults>>(
        server_->wait(restore_.infoRequest().send()));
    return answer_->getInfo();
  }

 private:
  std::unique_ptr<capnp::Response<rpc::Restore::InfoResults>> answer_;
};
BOTH_PAGE_SIZES(Gone);

// No interleaving: the mapping is split (by advice for single pages) before the population begins. The kernel
// refuses a run across a border as a whole, and not a page of it has gone.
TEST_P(Gone, AMappingThatIsSplitIsPopulatedAllTheSame) {
  serve();
  for (std::uint64_t page = 1; page < pages(); page += 5)
    ASSERT_EQ(madvise(start(*target_, page), pageSize(), MADV_DONTDUMP), 0);
  EXPECT_EQ(prefault({{0, 9}, {10, 3}}), 0u);
  EXPECT_EQ(prefault(), 0u);
  for (std::uint64_t page = 0; page < target_->pages(); page++) {
    ASSERT_TRUE(target_->inMemory(page)) << page;
    ASSERT_TRUE(target_->holdsImage(page)) << page;
  }
  EXPECT_EQ(info().getReleased(), 0u);
}

// No interleaving: memory leaves before the population begins, single pages and many, at the region's ends
// and in its middle. Nothing is missing after it, so a detach needs no force.
TEST_P(Gone, WhatHasLeftIsReleasedAndTheRestPopulated) {
  serve();
  mapOver(*target_, 0);
  mapOver(*target_, 5, 4);
  mapOver(*target_, pages() - 1);
  EXPECT_EQ(prefault(), 0u);
  EXPECT_EQ(info().getReleased(), 6u);
  EXPECT_EQ(info().getMissing(), 0u);
  for (std::uint64_t page = 0; page < pages(); page++) {
    const bool left = page == 0 || (page >= 5 && page < 9) || page == pages() - 1;
    ASSERT_EQ(stateOf(page), left ? rpc::PageState::RELEASED : rpc::PageState::FAULTED) << page;
    ASSERT_TRUE(left ? target_->isAll(page, 0) : target_->holdsImage(page)) << page;
  }
  server_->wait(restore_.detachRequest().send());
}

// Interleaving: a thread waits for a page, the worker is in its section, as the page is mapped over. The
// kernel wakes no thread for it, and the copy finds nothing: the thread has to look again.
TEST_P(Gone, AThreadThatWaitsForItLooksAgain) {
  serve();
  auto barrier = server_->barrier(1, rpc::FaultPoint::BEFORE_COPY);
  auto read = target_->readLater(1);
  server_->wait(barrier.waitHeldRequest().send());
  mapOver(*target_, 1);
  server_->wait(barrier.releaseRequest().send());
  EXPECT_EQ(read.get(), 0);
  awaitState(1, rpc::PageState::RELEASED);
  EXPECT_TRUE(target_->holdsImage(2));
}

// Interleaving: a thread waits for a page as it is mapped over; a population comes upon the page first, and
// the thread's fault after it.
TEST_P(Gone, AThreadThatWaitsForItIsWokenByAPopulationToo) {
  serve({.shards = 1});
  auto barrier = server_->barrier(1, rpc::FaultPoint::BEFORE_READ_LOCK);
  auto read = target_->readLater(1);
  server_->wait(barrier.waitHeldRequest().send());
  mapOver(*target_, 1);
  EXPECT_EQ(prefault({{1, 1}}), 0u);
  EXPECT_EQ(read.get(), 0);
  server_->wait(barrier.releaseRequest().send());
  EXPECT_EQ(stateOf(1), rpc::PageState::RELEASED);
  EXPECT_EQ(server_->sum(&rpc::ShardStats::Reader::getPoisoned), 0u);
}

// No interleaving: in place of a page that has gone there is new memory, registered with the same
// userfaultfd. The source has nothing to say of it.
TEST_P(Gone, WhatIsRegisteredAnewInItsPlaceGetsAnError) {
  serve();
  mapOver(*target_, 3, 2);
  EXPECT_EQ(prefault({{0, 8}}), 0u);
  registerAnew(*target_, 3);
  EXPECT_EQ(target_->touch(3), Touch::sigbus);
  EXPECT_TRUE(target_->isAll(4, 0));
  EXPECT_EQ(stateOf(3), rpc::PageState::RELEASED);
  await([&] { return server_->sum(&rpc::ShardStats::Reader::getPoisoned) == 1; });
  for (const std::uint64_t page : {2, 5, 9}) EXPECT_TRUE(target_->holdsImage(page)) << page;
}

// A target in a process of its own that maps page 3 over and says so, waits, and touches the page: as it is
// then, or registered anew. Its exit code says what it read.
class GoneOrKilled : public testing::Test {
 protected:
  std::unique_ptr<ChildProcess> target(const Server& server, bool anew) {
    return std::make_unique<ChildProcess>([this, socket = server.socket(), anew] {
      const Target target(image_, socket, SMALL);
      mapOver(target, 3);
      ready_.send();
      go_.wait();
      if (anew) registerAnew(target, 3);
      _exit(target.read(3));
    });
  }
  int exitOf(bool anew) {
    Server server(image_, {.more = {"--on-lost", "kill"}});
    auto child = target(server, anew);
    ready_.wait();
    auto restore = server.restore();
    auto job = server.wait(restore.prefaultRequest().send()).getPrefault();
    server.wait(job.waitRequest().send());
    go_.send();
    return child->join();
  }
  Image image_{64 * SMALL};
  Signal ready_, go_;
};

TEST_F(GoneOrKilled, WhatIsRegisteredAnewIsKilledIfTheOperatorWantsThat) {
  EXPECT_EQ(exitOf(true), 128 + SIGKILL);
}

TEST_F(GoneOrKilled, WhatHasOnlyGoneIsNot) {
  EXPECT_EQ(exitOf(false), 0);
}

}  // namespace
}  // namespace faultline::test
