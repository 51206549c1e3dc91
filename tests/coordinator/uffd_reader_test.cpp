// The reader alone: what it leaves when it cannot go on.

#include "coordinator/uffd_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <thread>

#include "coordinator/service_counters.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {
namespace {

class NoOwner final : public ShardPoolEvents {
 public:
  void shardDied(std::uint32_t) override {}
  kj::Promise<void> shardUp(ShardHandle&, std::vector<std::uint64_t>) override { return kj::READY_NOW; }
  kj::Promise<void> shardLeaves(ShardHandle&) override { return kj::READY_NOW; }
  rpc::ShardEvents::Client eventsFor(std::uint32_t) override {
    return rpc::ShardEvents::Client(KJ_EXCEPTION(UNIMPLEMENTED, "none"));
  }
};

// An event that it cannot follow, with a removal behind it that it has read and not published: from then on
// nobody may believe the page table, and the gate is opened by the very failure.
TEST(UffdReader, ABatchThatFailsLeavesNoTableToBeBelieved) {
  constexpr std::uint64_t BYTES = 64 * shm::SMALL_PAGE;
  const kj::AutoCloseFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
  ASSERT_EQ(ioctl(uffd.get(), UFFDIO_API, &api), 0);
  auto* memory =
      static_cast<char*>(mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uint64_t>(memory), BYTES};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(ioctl(uffd.get(), UFFDIO_REGISTER, &range), 0);

  auto io = kj::setupAsyncIo();
  auto [ours, theirs] = rpc::FdChannel::pair();
  SupervisorLink link(kj::mv(ours), io.unixEventPort);
  EventLog log(link, {});
  rpc::Failpoints failpoints;
  const Options options;
  NoOwner owner;
  ServiceCounters counters(nullptr);
  ShardPool pool(io, link, log, failpoints, options, *counters, owner);
  shm::Segment segment = shm::Segment::create({.restoreId = 1,
                                               .name = "vm",
                                               .sourceName = "",
                                               .regions = {{range.range.start, BYTES, 0, shm::SMALL_PAGE}},
                                               .sourceBytes = BYTES,
                                               .uffdFeatures = UFFD_FEATURE_EVENT_REMOVE,
                                               .workersPerShard = 2,
                                               .shards = 1});
  segment.header().state.store(shm::SegmentState::ready);
  segment.lock().open();
  FaultRouter router(pool, segment, nullptr);

  std::thread unmapping([&] { munmap(memory + BYTES / 2, BYTES / 2); });
  while (!uffd::eventInFlight(uffd.get())) sched_yield();
  std::thread giving([&] { madvise(memory, shm::SMALL_PAGE, MADV_DONTNEED); });
  {
    ReadingTurns turns;
    UffdReader reader(io, uffd.get(), segment, router, failpoints, options, turns, {});
    EXPECT_ANY_THROW(reader.run().wait(io.waitScope));
    EXPECT_FALSE(segment.lock().closed());
    EXPECT_FALSE(segment.servable());
  }
  unmapping.join();
  // The removal, where it came too late for that batch.
  uffd_msg message;
  ioctl(uffd.get(), UFFDIO_UNREGISTER, &range.range);
  while (uffd::eventInFlight(uffd.get()))
    if (::read(uffd.get(), &message, sizeof message) < 0) sched_yield();
  giving.join();
  munmap(memory, BYTES / 2);
}

}  // namespace
}  // namespace faultline::coordinator
