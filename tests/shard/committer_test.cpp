// A run of pages that the kernel copies in part.

#include "shard/committer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "tests/shard/local_restore.h"
#include "tests/support/exclusive.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"

namespace faultline::shard {
namespace {

using shm::PageState;
using test::await;

class CommitRun : public test::BothPageSizes {};
INSTANTIATE_TEST_SUITE_P(Pages, CommitRun, testing::Values(test::SMALL, test::HUGE), test::pageSizeName);

// Interleaving: the copy is half through its run as pages before and behind that place are given back. The
// copy is held there by its own source, whose second half is missing memory of another userfaultfd; the
// kernel looks for removals again once it has those bytes (mm/userfaultfd.c, mfill_atomic).
TEST_P(CommitRun, IsStoredAsFarAsItCameBeforeARemoval) {
  constexpr std::uint64_t COUNT = 4, HALF = 2;
  test::Image image(COUNT * pageSize());
  test::LocalRestore restore(image, pageSize());
  test::RawVmm source({COUNT * pageSize()});
  auto resolve = [&](shm::PageIndex first) {
    const std::uint64_t offset = first * pageSize();
    return uffd::copy(source.uffd(), reinterpret_cast<std::uint64_t>(source.at(0, offset)),
                      image.data() + offset, HALF * pageSize(), uffd::Protect::no, uffd::Waiters::wake)
        .outcome;
  };
  ASSERT_EQ(resolve(0), uffd::Outcome::done);

  failpoints::Failpoints failpoints;
  const Committer committer(failpoints);
  Attachment& attachment = *restore.attachment();
  auto commit = [&](shm::PageIndex first, Progress& advanced) {
    const Content content{Content::Kind::bytes, const_cast<unsigned char*>(source.at(0, first * pageSize()))};
    return committer.commitRun(attachment, 0, {first, COUNT - first}, COUNT, content, Origin::prefault,
                               advanced);
  };
  Progress advanced;
  Commit result{};
  std::thread worker([&] { result = commit(0, advanced); });
  await([&] { return test::pendingFaults(source.uffd()) == 1; });
  std::thread giver([&] { restore.giveBack(HALF - 1, 2); });
  await([&] { return uffd::eventInFlight(restore.uffd()); });
  EXPECT_EQ(resolve(HALF), uffd::Outcome::done);
  worker.join();

  EXPECT_EQ(result, Commit::done);
  EXPECT_EQ(advanced.pages, HALF);
  for (std::uint64_t page = 0; page < COUNT; page++)
    EXPECT_EQ(restore.state(page), page < HALF ? PageState::faulted : PageState::missing) << page;
  EXPECT_EQ(attachment.counters().copied.load(), HALF);
  EXPECT_EQ(commit(HALF, advanced), Commit::retry);
  EXPECT_EQ(advanced.pages, 0u);

  restore.readAndPublish();
  giver.join();
  for (const shm::PageIndex page : {HALF - 1, HALF})
    EXPECT_EQ(restore.state(page), PageState::removed) << page;
  EXPECT_EQ(commit(HALF, advanced), Commit::done);
  EXPECT_EQ(advanced.pages, 1u) << "the removed page alone is passed over";
  EXPECT_EQ(commit(HALF + 1, advanced), Commit::done);
  EXPECT_EQ(restore.state(COUNT - 1), PageState::faulted);
  restore.end();
  const std::string zeros(pageSize(), '\0');
  for (std::uint64_t page = 0; page < COUNT; page++) {
    const bool given = page == HALF - 1 || page == HALF;
    EXPECT_EQ(std::memcmp(const_cast<unsigned char*>(restore.page(page)),
                          given ? zeros.data() : image.data() + page * pageSize(), pageSize()),
              0)
        << page;
  }
}

// A page that is registered no more and faults all the same: zeros where it is zero for good, an error where
// the target has registered something else in its place; the source's bytes never.
TEST_P(CommitRun, NeverBringsTheSourceToAReleasedPage) {
  test::Image image(4 * pageSize());
  test::LocalRestore restore(image, pageSize());
  Attachment& attachment = *restore.attachment();
  shm::Segment& segment = attachment.segment();
  segment.pages().markReleased(test::exclusive(segment), {0, 1});
  segment.pages().markGone(segment.lock().lockShared(attachment.slot(0)), 1);

  failpoints::Failpoints failpoints;
  const Committer committer(failpoints);
  const Content bytes{Content::Kind::bytes, image.data()};
  Progress advanced;
  EXPECT_EQ(committer.commitRun(attachment, 0, {0, 2}, 2, bytes, Origin::prefault, advanced), Commit::done);
  EXPECT_EQ(advanced.pages, 2u) << "nothing is populated there";
  EXPECT_EQ(attachment.counters().copied.load(), 0u);

  EXPECT_EQ(committer.commitFault(attachment, 0, 0, bytes), Commit::done);
  EXPECT_EQ(*restore.page(0), 0);
  EXPECT_EQ(committer.commitFault(attachment, 0, 1, bytes), Commit::gone);
  EXPECT_EQ(committer.commitFault(attachment, 0, 1, {Content::Kind::poison}), Commit::poisoned);
  for (const shm::PageIndex page : {0, 1}) EXPECT_EQ(restore.state(page), PageState::released) << page;
  EXPECT_EQ(attachment.counters().copied.load(), 0u);
}

// The kernel refuses a run across the border of two mappings as a whole. Only what it says of a page alone
// makes that page released.
TEST_P(CommitRun, IsNarrowedToAPageBeforeAPageIsGone) {
  test::Image image(4 * pageSize());
  test::LocalRestore restore(image, pageSize());
  Attachment& attachment = *restore.attachment();
  ASSERT_EQ(uffd::unregister(restore.uffd(), reinterpret_cast<std::uint64_t>(restore.page(2)), pageSize()),
            0);

  failpoints::Failpoints failpoints;
  const Committer committer(failpoints);
  Progress advanced;
  auto commit = [&](shm::PageIndex first, std::uint64_t limit) {
    const Content content{Content::Kind::bytes, image.data() + first * pageSize()};
    return committer.commitRun(attachment, 0, {first, 4 - first}, limit, content, Origin::prefault, advanced);
  };
  EXPECT_EQ(commit(0, 4), Commit::parted);
  EXPECT_EQ(advanced.pages, 0u);
  for (shm::PageIndex page = 0; page < 4; page++) EXPECT_EQ(restore.state(page), PageState::missing) << page;
  EXPECT_EQ(commit(0, 2), Commit::done);
  EXPECT_EQ(advanced.pages, 2u);
  EXPECT_EQ(commit(2, 2), Commit::parted);
  EXPECT_EQ(commit(2, 1), Commit::unregistered);
  EXPECT_EQ(advanced.pages, 1u);
  EXPECT_EQ(restore.state(2), PageState::released);
  EXPECT_EQ(commit(3, 1), Commit::done);
  EXPECT_EQ(restore.state(3), PageState::faulted);
  EXPECT_EQ(attachment.counters().dropped.load(), 1u);
}

// While the coordinator marks a removal of terabytes, or none is there to open the gate: the thread that would wait has
// pages of other restores as well.
TEST_P(CommitRun, DoesNotWaitForAGateThatStaysClosed) {
  test::Image image(4 * pageSize());
  test::LocalRestore restore(image, pageSize());
  Attachment& attachment = *restore.attachment();
  failpoints::Failpoints failpoints;
  const Committer committer(failpoints);
  const Content bytes{Content::Kind::bytes, image.data()};
  Progress advanced;
  attachment.segment().lock().close();
  EXPECT_EQ(committer.commitFault(attachment, 0, 0, bytes), Commit::retry);
  EXPECT_EQ(committer.commitRun(attachment, 0, {0, 4}, 4, bytes, Origin::prefault, advanced), Commit::retry);
  EXPECT_EQ(advanced.pages, 0u);
  EXPECT_EQ(restore.state(0), PageState::missing);
  attachment.segment().lock().open();
  EXPECT_EQ(committer.commitFault(attachment, 0, 0, bytes), Commit::done);
  EXPECT_EQ(committer.commitRun(attachment, 0, {0, 4}, 4, bytes, Origin::prefault, advanced), Commit::done);
}

}  // namespace
}  // namespace faultline::shard
