// The cost of the journal for a batch of messages: read into it, published, found there by a successor.

#include <benchmark/benchmark.h>
#include <kj/debug.h>
#include <kj/io.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "bench/parts.h"

namespace {

using namespace faultline;
using namespace faultline::bench;

enum Kind : std::int64_t { faults, removals };

// Messages as the kernel gives them, of pages far from each other. They lie in a file, so a read costs the
// system call and the copy, without the kernel's queue.
class Messages {
 public:
  Messages(std::int64_t count, std::int64_t kind) {
    std::vector<uffd_msg> messages(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < messages.size(); i++) {
      const std::uint64_t address = PARTS_BASE + i * 977 % PARTS_PAGES * shm::SMALL_PAGE;
      if (kind == faults) {
        messages[i].event = UFFD_EVENT_PAGEFAULT;
        messages[i].arg.pagefault.address = address;
      } else {
        messages[i].event = UFFD_EVENT_REMOVE;
        messages[i].arg.remove.start = address;
        messages[i].arg.remove.end = address + shm::SMALL_PAGE;
      }
    }
    int fd;
    KJ_SYSCALL(fd = memfd_create("messages", MFD_CLOEXEC));
    file_ = kj::AutoCloseFd(fd);
    KJ_SYSCALL(write(fd, messages.data(), messages.size() * sizeof(uffd_msg)));
  }

  std::span<const uffd_msg> readInto(shm::Journal& journal) const {
    lseek(file_.get(), 0, SEEK_SET);
    return journal.read(file_.get());
  }

 private:
  kj::AutoCloseFd file_;
};

void publish(shm::Segment& segment, const shm::ExclusiveGuard& guard, const uffd_msg& message) {
  if (message.event == UFFD_EVENT_PAGEFAULT)
    benchmark::DoNotOptimize(segment.regions().pageAt(message.arg.pagefault.address));
  if (message.event == UFFD_EVENT_REMOVE)
    for (const shm::PageRange range :
         segment.regions().pagesIn(message.arg.remove.start, message.arg.remove.end))
      segment.pages().markRemoved(guard, range);
}

void eachKind(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"messages", "removals"})->ArgsProduct({{1, 64, 2048}, {faults, removals}});
}

void items(benchmark::State& state) {
  state.SetItemsProcessed(state.range(0) * state.iterations());
}

// Read and forgotten, nothing published.
void journalAppend(benchmark::State& state) {
  shm::Segment segment = makeSegment(1);
  const Messages messages(state.range(0), state.range(1));
  shm::Journal journal = segment.journal();
  for ([[maybe_unused]] auto _ : state) journal.clear(messages.readInto(journal).size());
  items(state);
}
BENCHMARK(journalAppend)->Apply(eachKind);

// All that a batch costs between closing the gate and opening it.
void journalAppendAndPublish(benchmark::State& state) {
  shm::Segment segment = makeSegment(1);
  const Messages messages(state.range(0), state.range(1));
  shm::Journal journal = segment.journal();
  for ([[maybe_unused]] auto _ : state) {
    auto guard = closeAndDrain(segment);
    const auto got = messages.readInto(journal);
    for (const uffd_msg& message : got) publish(segment, guard, message);
    journal.clear(got.size());
  }
  items(state);
}
BENCHMARK(journalAppendAndPublish)->Apply(eachKind);

// A successor's look through all of it, with so many messages left there. Faults are not replayed: they are
// asked for again.
void journalReplay(benchmark::State& state) {
  shm::Segment segment = makeSegment(1);
  const Messages messages(state.range(0), state.range(1));
  shm::Journal journal = segment.journal();
  messages.readInto(journal);
  auto guard = closeAndDrain(segment);
  for ([[maybe_unused]] auto _ : state)
    for (const uffd_msg& message : journal.all())
      if (message.event == UFFD_EVENT_REMOVE) publish(segment, guard, message);
  items(state);
}
BENCHMARK(journalReplay)->Apply(eachKind);

}  // namespace
