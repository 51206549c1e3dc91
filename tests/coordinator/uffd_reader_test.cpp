// The reader alone, without shards.

#include "coordinator/uffd_reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "coordinator/service_counters.h"
#include "process/duplicate.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {
namespace {

class NoOwner final : public ShardPoolEvents {
 public:
  void shardDied(std::uint32_t, Death) override {}
  kj::Promise<void> shardUp(ShardHandle&, std::vector<std::uint64_t>) override { return kj::READY_NOW; }
  kj::Promise<void> shardLeaves(ShardHandle&) override { return kj::READY_NOW; }
  rpc::ShardEvents::Client eventsFor(std::uint32_t) override {
    return rpc::ShardEvents::Client(KJ_EXCEPTION(UNIMPLEMENTED, "none"));
  }
};

// A reader with its target's memory and segment. (No fixture: KJ's destructors may throw, gtest's may not.)
struct Alone {
  static constexpr std::uint64_t PAGES = 64, BYTES = PAGES * shm::SMALL_PAGE;

  // `features`: what the target negotiates. `size`: of its memory, bytes.
  // `file`: mapped shared instead of private memory; borrowed.
  explicit Alone(std::uint64_t features, std::uint64_t size = BYTES, std::uint64_t pageSize = shm::SMALL_PAGE,
                 int file = -1) {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = features;
    KJ_SYSCALL(ioctl(uffd.get(), UFFDIO_API, &api));
    memory = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                     MAP_NORESERVE | (file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED),
                                     file, 0));
    range.range = {start(), size};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    KJ_SYSCALL(ioctl(uffd.get(), UFFDIO_REGISTER, &range));
    segment.emplace(shm::Segment::create({.restoreId = 1,
                                          .name = "vm",
                                          .sourceName = "",
                                          .regions = {{start(), size, 0, pageSize}},
                                          .sourceBytes = size,
                                          .uffdFeatures = UFFD_FEATURE_EVENT_REMOVE,
                                          .workersPerShard = 2,
                                          .shards = 1}));
    segment->header().state.store(shm::SegmentState::ready);
    segment->lock().open();
    router.emplace(pool, *segment, nullptr);
    UffdReaderHooks hooks;
    hooks.partRemoved = [this](shm::PageIndex page) { partsRemoved.push_back(page); };
    hooks.removed = [this](const shm::PageRange& pages) { removed.push_back(pages); };
    reader.emplace(io, uffd.get(), *segment, *router, failpoints, options, turns, std::move(hooks));
  }
  std::uint64_t start() const { return reinterpret_cast<std::uint64_t>(memory); }

  const kj::AutoCloseFd uffd{static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  char* memory = nullptr;
  uffdio_register range{};
  kj::AsyncIoContext io = kj::setupAsyncIo();
  std::pair<kj::AutoCloseFd, kj::AutoCloseFd> channel = process::FdChannel::pair();
  SupervisorLink link{kj::mv(channel.first), io.unixEventPort};
  shm::Counter lastEvent{0};
  EventLog log{link, {}, lastEvent};
  failpoints::Failpoints failpoints;
  const Options options;
  NoOwner owner;
  ServiceCounters counters{nullptr};
  ShardPool pool{io, link, log, failpoints, options, *counters, owner};
  std::optional<shm::Segment> segment;
  std::optional<FaultRouter> router;
  ReadingTurns turns;
  std::vector<shm::PageIndex> partsRemoved;
  std::vector<shm::PageRange> removed;
  std::optional<UffdReader> reader;
};

// The state that a predecessor leaves which has read the removal of all memory, and has died.
void journalRemoval(Alone& alone, std::uint64_t size) {
  uffd_msg removal{};
  removal.event = UFFD_EVENT_REMOVE;
  removal.arg.remove.start = alone.start();
  removal.arg.remove.end = alone.start() + size;
  const_cast<uffd_msg&>(alone.segment->journal().all().front()) = removal;
}

// The reader meets an event that it cannot follow, with a removal behind it that is read and not published.
// From then on the page table must not be believed, and the failure itself opens the gate.
TEST(UffdReader, ABatchThatFailsLeavesNoTableToBeBelieved) {
  Alone alone(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP);
  std::thread unmapping([&] { munmap(alone.memory + Alone::BYTES / 2, Alone::BYTES / 2); });
  while (!uffd::eventInFlight(alone.uffd.get())) sched_yield();
  std::thread giving([&] { madvise(alone.memory, shm::SMALL_PAGE, MADV_DONTNEED); });
  EXPECT_ANY_THROW(alone.reader->run().wait(alone.io.waitScope));
  EXPECT_FALSE(alone.segment->lock().closed());
  EXPECT_FALSE(alone.segment->servable());
  unmapping.join();
  // The removal, where it came too late for that batch.
  uffd_msg message;
  ioctl(alone.uffd.get(), UFFDIO_UNREGISTER, &alone.range.range);
  while (uffd::eventInFlight(alone.uffd.get()))
    if (::read(alone.uffd.get(), &message, sizeof message) < 0) sched_yield();
  giving.join();
  munmap(alone.memory, Alone::BYTES / 2);
}

// A target can give back all its memory from as many threads as the journal takes messages. Marking them
// costs one walk through the page table, or no other target would be served meanwhile.
TEST(UffdReader, MarksAPageOnceHoweverOftenABatchRemovesIt) {
  Alone alone(UFFD_FEATURE_EVENT_REMOVE);
  uffd_msg removal{};
  removal.event = UFFD_EVENT_REMOVE;
  removal.arg.remove.start = alone.start();
  removal.arg.remove.end = alone.start() + Alone::BYTES;
  const auto journal = alone.segment->journal().all();
  std::fill_n(const_cast<uffd_msg*>(journal.data()), journal.size(), removal);
  const kj::AutoCloseFd onceTooOften(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  alone.failpoints.arm({.point = failpoints::Point::midMark,
                        .action = failpoints::Action::pass,
                        .skip = Alone::PAGES,
                        .reached = process::duplicate(onceTooOften.get()),
                        .reached2 = kj::AutoCloseFd(),
                        .resume = kj::AutoCloseFd()});
  EXPECT_EQ(alone.reader->recover().wait(alone.io.waitScope), std::nullopt);
  EXPECT_EQ(alone.segment->pages().counts({0, Alone::PAGES}).removed, Alone::PAGES);
  eventfd_t times;
  EXPECT_NE(eventfd_read(onceTooOften.get(), &times), 0);
  munmap(alone.memory, Alone::BYTES);
}

// A target gives 64 GiB back in one call. Others have their turn while that is marked; its own gate opens when all of
// it is.
TEST(UffdReader, MarksAHugeRemovalInStepsBehindAClosedGate) {
  constexpr std::uint64_t SIZE = 64ull << 30, LAST = SIZE / shm::SMALL_PAGE - 1;
  Alone alone(UFFD_FEATURE_EVENT_REMOVE, SIZE);
  std::thread giving([&] { madvise(alone.memory, SIZE, MADV_DONTNEED); });
  auto& timer = alone.io.provider->getTimer();
  auto turn = [&] { timer.afterDelay(0 * kj::SECONDS).wait(alone.io.waitScope); };
  auto running = alone.reader->run().eagerlyEvaluate(nullptr);
  const shm::PageTable& pages = alone.segment->pages();
  while (pages.state(0) == shm::PageState::missing) turn();
  unsigned turns = 0;
  for (; pages.state(LAST) == shm::PageState::missing; turns++) {
    ASSERT_TRUE(alone.segment->lock().closed());
    ASSERT_FALSE(alone.segment->journal().empty());
    turn();
  }
  EXPECT_GE(turns, 4u);
  turn();
  EXPECT_FALSE(alone.segment->lock().closed());
  EXPECT_TRUE(alone.segment->journal().empty());
  EXPECT_TRUE(alone.segment->servable());
  EXPECT_EQ(pages.counts().removed, LAST + 1);
  giving.join();
  running = nullptr;
  munmap(alone.memory, SIZE);
}

// A predecessor has read that 64 GiB were given back, and marked none of it. Others have their turn while that is marked
// and the page table is checked; its own gate opens when all of it is done.
TEST(UffdReader, TakesAHugeRestoreOverInStepsBehindAClosedGate) {
  constexpr std::uint64_t SIZE = 64ull << 30, LAST = SIZE / shm::SMALL_PAGE - 1;
  Alone alone(UFFD_FEATURE_EVENT_REMOVE, SIZE);
  journalRemoval(alone, SIZE);
  alone.segment->lock().close();
  bool over = false;
  auto recovering = alone.reader->recover()
                        .then([&](const std::optional<std::string>& why) {
                          EXPECT_EQ(why, std::nullopt);
                          over = true;
                        })
                        .eagerlyEvaluate(nullptr);
  unsigned turns = 0;
  for (; !over; turns++) {
    ASSERT_TRUE(alone.segment->lock().closed());
    ASSERT_FALSE(alone.segment->journal().empty());
    alone.io.provider->getTimer().afterDelay(0 * kj::SECONDS).wait(alone.io.waitScope);
  }
  EXPECT_GE(turns, 12u);
  EXPECT_FALSE(alone.segment->lock().closed());
  EXPECT_TRUE(alone.segment->journal().empty());
  EXPECT_TRUE(alone.segment->servable());
  EXPECT_EQ(alone.segment->pages().counts().removed, LAST + 1);
  recovering = nullptr;
  munmap(alone.memory, SIZE);
}

// The target of a restore that is being taken over has gone.
TEST(UffdReader, ATakeoverThatIsDroppedHalfWayLeavesNoTableToBeBelieved) {
  constexpr std::uint64_t SIZE = 64ull << 30;
  Alone alone(UFFD_FEATURE_EVENT_REMOVE, SIZE);
  journalRemoval(alone, SIZE);
  alone.segment->lock().close();
  auto recovering = alone.reader->recover().ignoreResult().eagerlyEvaluate(nullptr);
  while (alone.segment->pages().state(0) == shm::PageState::missing)
    alone.io.provider->getTimer().afterDelay(0 * kj::SECONDS).wait(alone.io.waitScope);
  recovering = nullptr;
  EXPECT_FALSE(alone.segment->servable());
  EXPECT_FALSE(alone.segment->lock().closed());
  munmap(alone.memory, SIZE);
}

// Neither the source's bytes nor zeros would be right in it. Pages that are there the kernel has cleared itself, and
// what is given up wholly is removed.
TEST(UffdReader, AMissingPageOfWhichAPartIsRemovedIsReleasedAndTold) {
  const kj::AutoCloseFd file(memfd_create("guest", MFD_CLOEXEC | MFD_HUGETLB));
  constexpr std::uint64_t SIZE = 5 * shm::HUGE_PAGE;
  ASSERT_EQ(ftruncate(file.get(), SIZE), 0);
  Alone alone(UFFD_FEATURE_EVENT_REMOVE, SIZE, shm::HUGE_PAGE, file.get());
  shm::PageTable& pages = alone.segment->pages();
  pages.markFaulted(alone.segment->lock().lockShared(0), {3, 1});
  std::thread giving([&] {
    madvise(alone.memory + shm::HUGE_PAGE / 2, 3 * shm::HUGE_PAGE,
            MADV_REMOVE);  // half of 0, 1, 2, half of 3
  });
  auto running = alone.reader->run().eagerlyEvaluate(nullptr);
  while (alone.partsRemoved.empty()) alone.io.waitScope.poll();
  giving.join();
  EXPECT_THAT(alone.partsRemoved, testing::ElementsAre(0));
  EXPECT_EQ(pages.state(0), shm::PageState::released);
  EXPECT_EQ(pages.state(1), shm::PageState::removed);
  EXPECT_EQ(pages.state(2), shm::PageState::removed);
  EXPECT_EQ(pages.state(3), shm::PageState::faulted);
  EXPECT_EQ(pages.state(4), shm::PageState::missing);
  running = nullptr;
  munmap(alone.memory, SIZE);
}

// The restore ends, or fails, while such a removal is being marked.
TEST(UffdReader, ARemovalThatIsDroppedHalfMarkedLeavesNoTableToBeBelieved) {
  constexpr std::uint64_t SIZE = 64ull << 30;
  Alone alone(UFFD_FEATURE_EVENT_REMOVE, SIZE);
  std::thread giving([&] { madvise(alone.memory, SIZE, MADV_DONTNEED); });
  auto running = alone.reader->run().eagerlyEvaluate(nullptr);
  while (alone.segment->pages().state(0) == shm::PageState::missing)
    alone.io.provider->getTimer().afterDelay(0 * kj::SECONDS).wait(alone.io.waitScope);
  running = nullptr;
  EXPECT_FALSE(alone.segment->servable());
  EXPECT_FALSE(alone.segment->lock().closed());
  giving.join();
  munmap(alone.memory, SIZE);
}

}  // namespace
}  // namespace faultline::coordinator
