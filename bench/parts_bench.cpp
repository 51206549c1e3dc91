// The cost of the parts of a fault's way by themselves, in one thread: no waking, no contention.

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <numeric>
#include <vector>

#include "bench/parts.h"
#include "rpc/fault_ring.h"

namespace {

using namespace faultline;
using namespace faultline::bench;

// A commit section without its ioctl: lock the slot, look at the gate and the state, store, unlock.
void commitSection(benchmark::State& state) {
  shm::Segment segment = makeSegment(1);
  segment.lock().open();
  shm::PageIndex page = 0;
  for ([[maybe_unused]] auto _ : state) {
    auto guard = segment.lock().lockShared(0);
    benchmark::DoNotOptimize(segment.pages().state(page));
    segment.pages().markFaulted(guard, {page, 1});
    page = (page + 1) % PARTS_PAGES;
  }
}
BENCHMARK(commitSection);

// Closing the gate, draining every slot, opening: what each read() costs beside itself.
void closeDrainOpen(benchmark::State& state) {
  shm::Segment segment = makeSegment(static_cast<std::uint32_t>(state.range(0)));
  for ([[maybe_unused]] auto _ : state) {
    auto guard = closeAndDrain(segment);
    benchmark::DoNotOptimize(guard);
  }
}
BENCHMARK(closeDrainOpen)->ArgName("shards")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(16);

void markRemoved(benchmark::State& state) {
  shm::Segment segment = makeSegment(1);
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  auto guard = closeAndDrain(segment);
  for ([[maybe_unused]] auto _ : state) segment.pages().markRemoved(guard, {64, pages});
  state.SetItemsProcessed(static_cast<std::int64_t>(pages) * state.iterations());
}
BENCHMARK(markRemoved)->ArgName("pages")->Arg(1)->Arg(512)->Arg(65536);

void addressToPageAndBack(benchmark::State& state) {
  shm::Segment segment = makeSegment(2);
  std::uint64_t address = PARTS_BASE;
  for ([[maybe_unused]] auto _ : state) {
    const auto page = segment.regions().pageAt(address);
    benchmark::DoNotOptimize(segment.ownerOf(*page));
    benchmark::DoNotOptimize(segment.regions().locate(*page));
    address = PARTS_BASE + (address * 25214903917 + 11) % (PARTS_PAGES * shm::SMALL_PAGE);
  }
}
BENCHMARK(addressToPageAndBack);

// A batch of faults through the ring, as a Cap'n Proto message, both ends.
void ringBatch(benchmark::State& state) {
  rpc::FaultRing producer = rpc::FaultRing::create();
  rpc::FaultRing consumer = rpc::FaultRing::attach(kj::AutoCloseFd(dup(producer.memoryFd())),
                                                   kj::AutoCloseFd(dup(producer.doorbellFd())));
  std::vector<std::uint64_t> pages(static_cast<std::size_t>(state.range(0)));
  std::iota(pages.begin(), pages.end(), 0);
  std::uint64_t sum = 0;
  for ([[maybe_unused]] auto _ : state) {
    producer.push(1, 2, pages);
    producer.ring();
    while (consumer.pop([&](rpc::FaultBatch::Reader batch) {
      for (const std::uint64_t page : batch.getPages()) sum += page;
    })) {
    }
  }
  benchmark::DoNotOptimize(sum);
  state.SetItemsProcessed(state.range(0) * state.iterations());
}
BENCHMARK(ringBatch)->ArgName("faults")->Arg(1)->Arg(16)->Arg(64);

}  // namespace
