// Interleavings that only a held thread can show: a worker is parked at a named place, the target acts, the
// worker goes on.

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <chrono>

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

constexpr unsigned char SENTINEL = 0xc3;

class Parked : public OneTarget {};
BOTH_PAGE_SIZES(Parked);

// Interleaving: the worker has the source's bytes in hand, no lock; the page is given back, the removal
// published; the worker goes on. The worker must look at the state again, under the lock.
TEST_P(Parked, StaleSource) {
  image_.fill(pageSize(), pageSize(), SENTINEL);
  serve();
  auto barrier = server_->barrier(1, rpc::FaultPoint::BEFORE_READ_LOCK);
  auto read = target_->readLater(1);
  server_->wait(barrier.waitHeldRequest().send());
  target_->giveBack(1);
  EXPECT_EQ(stateOf(1), rpc::PageState::REMOVED);
  server_->wait(barrier.releaseRequest().send());
  EXPECT_EQ(read.get(), 0);
  EXPECT_TRUE(target_->isAll(1, 0));
}

// The window after read(): the worker is inside its section, state checked, ioctl not yet done, as the page
// is given back. The event must stay unread until the section is over, so that the kernel refuses the copy.
TEST_P(Parked, TheWindowAfterRead) {
  image_.fill(pageSize(), pageSize(), SENTINEL);
  serve();
  shm::Segment segment = server_->segment();
  auto barrier = server_->barrier(1, rpc::FaultPoint::BEFORE_COPY);
  auto read = target_->readLater(1);
  server_->wait(barrier.waitHeldRequest().send());
  auto given = target_->giveBackLater(1);
  await([&] { return segment.lock().closed(); });
  EXPECT_TRUE(target_->eventInFlight());
  EXPECT_TRUE(segment.journal().empty());
  EXPECT_EQ(segment.pages().state(1), shm::PageState::missing);
  server_->wait(barrier.releaseRequest().send());
  given.get();
  EXPECT_TRUE(target_->isAll(1, 0));
  read.get();
}

// Interleaving: the page is given back while a worker is parked inside its section, never let go. The worker
// delays the madvise by the lock's deadline and no more: its shard is killed and replaced, and its copy never
// happens.
TEST_P(Parked, NoMadviseDeadlock) {
  image_.fill(pageSize(), pageSize(), SENTINEL);
  serve({.lockDeadlineMs = std::nullopt});
  const unsigned owner = server_->ownerOf(1);
  const pid_t before = server_->shardPid(owner);
  auto barrier = server_->barrier(1, rpc::FaultPoint::BEFORE_COPY);
  auto read = target_->readLater(1);
  server_->wait(barrier.waitHeldRequest().send());
  const auto begun = std::chrono::steady_clock::now();
  target_->giveBack(1);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(2));
  EXPECT_TRUE(target_->isAll(1, 0));
  read.get();
  for (std::uint64_t page = 2; page < target_->pages(); page++)
    ASSERT_TRUE(target_->holdsImage(page)) << page;
  await([&] { return server_->status().getShards()[owner].getAlive(); });
  EXPECT_NE(server_->shardPid(owner), before);
  EXPECT_EQ(server_->wait(restore_.statsRequest().send()).getStats().getFences(), 1u);
}

// Interleaving: a page has gone between being noted and being touched. A fault on a page that the tracker
// calls faulted, and that is not there, is answered with zeros; never skipped.
TEST_P(Parked, AFaultOnAFaultedPageIsAnswered) {
  serve();
  shm::Segment segment = server_->segment();
  {
    // A worker notes the page as faulted without a copy; a page that went away in between looks so, too.
    const unsigned unused = segment.firstSlot(shm::MAX_SHARDS - 1);
    auto guard = segment.lock().lockShared(unused);
    segment.pages().markFaulted(guard, {3, 1});
  }
  EXPECT_TRUE(target_->isAll(3, 0));
}

// Interleaving: a page comes by another way after its fault was queued. The kernel wakes no thread on EEXIST,
// so the worker must wake the threads that wait for the page.
TEST_P(Parked, APageThatIsThereAlreadyWakesItsWaiters) {
  serve();
  server_->wait(restore_.pauseRequest().send());
  auto read = target_->readLater(2);
  await([&] { return target_->queued().pending == 1; });
  uffdio_copy copy{};
  copy.dst = reinterpret_cast<std::uint64_t>(target_->address(2));
  copy.src = reinterpret_cast<std::uint64_t>(image_.data()) + target_->offset(2);
  copy.len = pageSize();
  copy.mode = UFFDIO_COPY_MODE_DONTWAKE;
  ASSERT_EQ(ioctl(target_->uffd(), UFFDIO_COPY, &copy), 0);
  server_->wait(restore_.resumeRequest().send());
  EXPECT_EQ(read.get(), image_.at(target_->offset(2)));
  // For a huge page EEXIST may also mean that there is no memory for it. Taken for populated, it would give
  // zeros to the next fault.
  if (pageSize() == SMALL)
    awaitState(2, rpc::PageState::FAULTED);
  else
    EXPECT_EQ(stateOf(2), rpc::PageState::MISSING);
}

// Interleaving: a worker is held inside its section as pages of two targets are given back. A worker on one
// target's page holds up no removal of another target.
TEST_P(Parked, AnotherTargetIsNotHeldUp) {
  serve();
  Target second(image_, server_->socket(), pageSize());
  server_->restore(1);
  const std::uint64_t other = pageSize() == SMALL ? 512 : 4;  // another shard's
  auto barrier = server_->barrier(1, rpc::FaultPoint::BEFORE_COPY, 0);
  auto read = target_->readLater(1);
  server_->wait(barrier.waitHeldRequest().send());
  auto given = target_->giveBackLater(1);
  second.giveBack(other, 2);
  EXPECT_TRUE(second.isAll(other, 0));
  EXPECT_TRUE(second.holdsImage(other + 2));
  server_->wait(barrier.releaseRequest().send());
  given.get();
  EXPECT_TRUE(target_->isAll(1, 0));
  read.get();
}

}  // namespace
}  // namespace faultline::test
