// Work in proportion to the size of a restore: in steps, or in another thread.

#include "coordinator/page_counting.h"

#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <unistd.h>

#include <ctime>

#include "coordinator/options.h"
#include "coordinator/restore_spec.h"
#include "shmtracker/segment.h"
#include "tests/support/exclusive.h"

namespace faultline::coordinator {
namespace {

constexpr std::uint64_t BASE = 1ull << 40, SIZE = 64ull << 30, PAGES = SIZE / shm::SMALL_PAGE;

std::uint64_t cpuTime(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
}

TEST(PageCounting, OthersHaveTheirTurnsMeanwhile) {
  auto io = kj::setupAsyncIo();
  auto& timer = io.provider->getTimer();
  shm::Segment segment = shm::Segment::create({.restoreId = 1,
                                               .name = "vm",
                                               .sourceName = "",
                                               .regions = {{BASE, SIZE, 0, shm::SMALL_PAGE}},
                                               .sourceBytes = SIZE});
  {
    const auto guard = test::exclusive(segment);
    segment.pages().markRemoved(guard, {5, COUNT_STEP});
    segment.pages().markGone(guard, {PAGES - 3, 3});
  }
  unsigned turns = 0;
  bool counted = false;
  auto counting = countPages(timer, segment).then([&](shm::PageCounts counts) {
    counted = true;
    return counts;
  });
  auto eager = counting.eagerlyEvaluate(nullptr);
  for (; !counted; turns++) timer.afterDelay(0 * kj::SECONDS).wait(io.waitScope);
  EXPECT_GE(turns, PAGES / COUNT_STEP - 1);
  const shm::PageCounts counts = eager.wait(io.waitScope);
  EXPECT_EQ(counts.removed, COUNT_STEP);
  EXPECT_EQ(counts.released, 3u);
  EXPECT_EQ(counts.total(), PAGES);
}

TEST(PageCounting, CountsTheRangesThatAreGiven) {
  auto io = kj::setupAsyncIo();
  shm::Segment segment = shm::Segment::create({.restoreId = 1,
                                               .name = "vm",
                                               .sourceName = "",
                                               .regions = {{BASE, 1 << 20, 0, shm::SMALL_PAGE}},
                                               .sourceBytes = 1 << 20});
  segment.pages().markRemoved(test::exclusive(segment), {10, 20});
  const shm::PageCounts counts =
      countPages(io.provider->getTimer(), segment, {{0, 11}, {29, 2}}).wait(io.waitScope);
  EXPECT_EQ(counts.removed, 2u);
  EXPECT_EQ(counts.missing, 11u);
}

// To lock the segment of a large restore in memory takes its time, which is not the loop's.
TEST(RestoreSpec, ItsSegmentIsMadeInAThreadOfItsOwn) {
  constexpr std::uint64_t LARGE = 512ull << 30;
  auto io = kj::setupAsyncIo();
  const kj::AutoCloseFd source(memfd_create("source", MFD_CLOEXEC));
  KJ_SYSCALL(ftruncate(source.get(), static_cast<off_t>(LARGE)));
  RestoreSpec spec;
  spec.name = "vm";
  spec.layerNames = {"source"};
  spec.regions = {{BASE, LARGE, 0, shm::SMALL_PAGE}};
  const std::uint64_t own = cpuTime(CLOCK_THREAD_CPUTIME_ID), all = cpuTime(CLOCK_PROCESS_CPUTIME_ID);
  const shm::Segment segment = spec.createSegment(Options{}, source.get()).wait(io.waitScope);
  const std::uint64_t ownAfter = cpuTime(CLOCK_THREAD_CPUTIME_ID) - own;
  EXPECT_LT(ownAfter * 2, cpuTime(CLOCK_PROCESS_CPUTIME_ID) - all);
  EXPECT_EQ(segment.pages().pageCount(), LARGE / shm::SMALL_PAGE);
}

}  // namespace
}  // namespace faultline::coordinator
