// Interleavings that only a held thread can show: a worker is parked at a named place, the target acts, the
// worker goes on.

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

constexpr unsigned char SENTINEL = 0xc3;

class Parked : public RaceTest {};
BOTH_PAGE_SIZES(Parked);

// Interleaving: the worker has the source's bytes in hand, no lock; the page is given back, the removal
// published; the worker goes on. It must look at the state again, under the lock.
TEST_P(Parked, StaleSource) {
  Image image(imageBytes());
  image.fill(pageSize(), pageSize(), SENTINEL);
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  auto barrier = server.barrier(1, rpc::FaultPoint::BEFORE_READ_LOCK);
  auto read = target.readLater(1);
  server.wait(barrier.waitHeldRequest().send());
  target.giveBack(1);
  EXPECT_EQ(stateOf(server, restore, 1), rpc::PageState::REMOVED);
  server.wait(barrier.releaseRequest().send());
  EXPECT_EQ(read.get(), 0);
  EXPECT_TRUE(target.isAll(1, 0));
}

// The window after read(): the worker is inside its section, state checked, ioctl not yet done, as the page
// is given back. The event must stay unread until the section is over, so that the kernel refuses the copy.
TEST_P(Parked, TheWindowAfterRead) {
  Image image(imageBytes());
  image.fill(pageSize(), pageSize(), SENTINEL);
  Server server(image);
  Target target(image, server.socket(), pageSize());
  server.restore();
  shm::Segment segment = server.segment();
  auto barrier = server.barrier(1, rpc::FaultPoint::BEFORE_COPY);
  auto read = target.readLater(1);
  server.wait(barrier.waitHeldRequest().send());
  auto given = target.giveBackLater(1);
  await([&] { return segment.lock().closed(); });
  EXPECT_TRUE(target.eventInFlight());
  EXPECT_TRUE(segment.journal().empty());
  EXPECT_EQ(segment.pages().state(1), shm::PageState::missing);
  server.wait(barrier.releaseRequest().send());
  given.get();
  EXPECT_TRUE(target.isAll(1, 0));
  read.get();
}

// A worker that is parked inside its section and never let go delays the madvise by the lock's deadline and
// no more: it is killed, its shard replaced, and nothing that it meant to do happens.
TEST_P(Parked, NoMadviseDeadlock) {
  Image image(imageBytes());
  image.fill(pageSize(), pageSize(), SENTINEL);
  Server server(image, {.lockDeadlineMs = 50});
  Target target(image, server.socket(), pageSize());
  server.restore();
  const unsigned owner = server.ownerOf(1);
  const pid_t before = server.shardPid(owner);
  auto barrier = server.barrier(1, rpc::FaultPoint::BEFORE_COPY);
  auto read = target.readLater(1);
  server.wait(barrier.waitHeldRequest().send());
  target.giveBack(1);
  EXPECT_TRUE(target.isAll(1, 0));
  read.get();
  for (std::uint64_t page = 2; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
  await([&] { return server.status().getShards()[owner].getAlive(); });
  EXPECT_NE(server.shardPid(owner), before);
  EXPECT_EQ(server.wait(server.restore().statsRequest().send()).getStats().getFences(), 1u);
}

// A fault on a page that the tracker calls faulted, and that is not there, is answered with zeros; never
// skipped.
TEST_P(Parked, AFaultOnAFaultedPageIsAnswered) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  server.restore();
  shm::Segment segment = server.segment();
  {
    // A worker that says so without having done it: a page that went away in between looks the same.
    const unsigned unused = segment.firstSlot(shm::MAX_SHARDS - 1);
    auto guard = segment.lock().lockShared(unused);
    segment.pages().markFaulted(guard, {3, 1});
  }
  EXPECT_TRUE(target.isAll(3, 0));
}

// The kernel wakes nobody on EEXIST: whoever waits for a page that somebody else has put there must be woken.
TEST_P(Parked, APageThatIsThereAlreadyWakesItsWaiters) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  auto read = target.readLater(2);
  await([&] { return target.queued().pending == 1; });
  uffdio_copy copy{};
  copy.dst = reinterpret_cast<std::uint64_t>(target.address(2));
  copy.src = reinterpret_cast<std::uint64_t>(image.data()) + target.offset(2);
  copy.len = pageSize();
  copy.mode = UFFDIO_COPY_MODE_DONTWAKE;
  ASSERT_EQ(ioctl(target.uffd(), UFFDIO_COPY, &copy), 0);
  server.wait(restore.resumeRequest().send());
  EXPECT_EQ(read.get(), image.at(target.offset(2)));
  // Of a huge page the kernel says the same where there is no memory for it: to take it for there would give
  // zeros to the next who faults.
  if (pageSize() == SMALL)
    awaitState(server, restore, 2, rpc::PageState::FAULTED);
  else
    EXPECT_EQ(stateOf(server, restore, 2), rpc::PageState::MISSING);
}

// Held before the lock or inside it, a worker on one target's page holds up no removal of another target.
TEST_P(Parked, AnotherTargetIsNotHeldUp) {
  Image image(imageBytes());
  Server server(image);
  Target first(image, server.socket(), pageSize());
  server.restore(0);
  Target second(image, server.socket(), pageSize());
  server.restore(1);
  const std::uint64_t other = pageSize() == SMALL ? 512 : 4;  // another shard's
  auto barrier = server.barrier(1, rpc::FaultPoint::BEFORE_COPY, 0);
  auto read = first.readLater(1);
  server.wait(barrier.waitHeldRequest().send());
  auto given = first.giveBackLater(1);
  second.giveBack(other, 2);
  EXPECT_TRUE(second.isAll(other, 0));
  EXPECT_TRUE(second.holdsImage(other + 2));
  server.wait(barrier.releaseRequest().send());
  given.get();
  EXPECT_TRUE(first.isAll(1, 0));
  read.get();
}

}  // namespace
}  // namespace faultline::test
