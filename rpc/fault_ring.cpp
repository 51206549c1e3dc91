#include "rpc/fault_ring.h"

#include <capnp/message.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace faultline::rpc {

namespace {

constexpr std::uint32_t CELLS = 256;
constexpr std::size_t CELL_WORDS = 64;
constexpr std::uint64_t MAGIC = 0x31676e69726c6166;  // "falring1"
constexpr int SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

struct Cell {
  std::uint64_t words;  // size of the message
  capnp::word message[CELL_WORDS - 1];
};
// Root pointer, struct (two data words, one pointer), the list.
static_assert(1 + 3 + FaultRing::PAGES_PER_MESSAGE <= CELL_WORDS - 1);

}  // namespace

struct FaultRing::Memory {
  std::uint64_t magic;
  alignas(128) std::atomic<std::uint32_t> produced;  // messages, modulo 2^32
  alignas(128) std::atomic<std::uint32_t> consumed;
  alignas(128) std::atomic<std::uint32_t> sleeping;
  alignas(128) Cell cells[CELLS];
};

FaultRing::FaultRing(kj::AutoCloseFd memory, kj::AutoCloseFd doorbell)
    : memory_(kj::mv(memory)), doorbell_(kj::mv(doorbell)) {
  void* start =
      mmap(nullptr, sizeof(Memory), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory_.get(), 0);
  KJ_REQUIRE(start != MAP_FAILED, "cannot map a fault ring");
  shared_ = static_cast<Memory*>(start);
}

FaultRing::FaultRing(FaultRing&& other) noexcept
    : memory_(kj::mv(other.memory_)),
      doorbell_(kj::mv(other.doorbell_)),
      shared_(std::exchange(other.shared_, nullptr)),
      next_(other.next_) {}

FaultRing::~FaultRing() {
  if (shared_ != nullptr) munmap(shared_, sizeof(Memory));
}

FaultRing FaultRing::create() {
  int memory;
  KJ_SYSCALL(memory = memfd_create("faultline-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  kj::AutoCloseFd memoryFd(memory);
  KJ_SYSCALL(ftruncate(memory, sizeof(Memory)));
  KJ_SYSCALL(fcntl(memory, F_ADD_SEALS, SEALS));
  int doorbell;
  KJ_SYSCALL(doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  FaultRing ring(kj::mv(memoryFd), kj::AutoCloseFd(doorbell));
  ring.shared_->magic = MAGIC;
  return ring;
}

FaultRing FaultRing::attach(kj::AutoCloseFd memory, kj::AutoCloseFd doorbell) {
  struct stat status {};
  KJ_SYSCALL(fstat(memory.get(), &status));
  KJ_REQUIRE(static_cast<std::size_t>(status.st_size) == sizeof(Memory) &&
                 (fcntl(memory.get(), F_GET_SEALS) & SEALS) == SEALS,
             "not a fault ring of this build", status.st_size, sizeof(Memory));
  FaultRing ring(kj::mv(memory), kj::mv(doorbell));
  KJ_REQUIRE(ring.shared_->magic == MAGIC, "not a fault ring of this build", ring.shared_->magic);
  ring.next_ = ring.shared_->consumed.load();
  return ring;
}

bool FaultRing::push(std::uint64_t restore, std::uint64_t readAt, std::span<const std::uint64_t> pages) {
  const std::size_t messages = (pages.size() + PAGES_PER_MESSAGE - 1) / PAGES_PER_MESSAGE;
  const std::uint32_t used = next_ - shared_->consumed.load(std::memory_order_acquire);
  if (used > CELLS || messages > CELLS - used) return false;
  for (; !pages.empty(); pages = pages.subspan(std::min(pages.size(), PAGES_PER_MESSAGE))) {
    const auto part = pages.first(std::min(pages.size(), PAGES_PER_MESSAGE));
    Cell& cell = shared_->cells[next_ % CELLS];
    const std::size_t words = 4 + part.size();
    std::memset(cell.message, 0, words * sizeof(capnp::word));
    capnp::FlatMessageBuilder builder(kj::arrayPtr(cell.message, words));
    auto batch = builder.initRoot<FaultBatch>();
    batch.setRestore(restore);
    batch.setReadAt(readAt);
    auto list = batch.initPages(static_cast<unsigned>(part.size()));
    for (unsigned i = 0; i < part.size(); i++) list.set(i, part[i]);
    cell.words = words;
    next_++;
  }
  shared_->produced.store(next_, std::memory_order_seq_cst);
  return true;
}

void FaultRing::ring() {
  // Pairs with prepareToSleep(): either the consumer sees what was produced, or we see that it sleeps.
  if (shared_->sleeping.load(std::memory_order_seq_cst) == 0) return;
  shared_->sleeping.store(0, std::memory_order_relaxed);
  const std::uint64_t one = 1;
  // Full (EAGAIN) means that it is already ringing.
  [[maybe_unused]] const ssize_t written = write(doorbell_.get(), &one, sizeof one);
}

bool FaultRing::empty() const {
  return shared_->produced.load(std::memory_order_acquire) == next_;
}

bool FaultRing::pop(const std::function<void(FaultBatch::Reader)>& visit) {
  if (empty()) return false;
  Cell& cell = shared_->cells[next_ % CELLS];
  next_++;
  KJ_DEFER(shared_->consumed.store(next_, std::memory_order_release));
  const std::uint64_t words = cell.words;
  KJ_REQUIRE(words <= CELL_WORDS - 1, "damaged message in the fault ring", words);
  const kj::ArrayPtr<const capnp::word> segments[1] = {kj::arrayPtr(cell.message, words)};
  capnp::SegmentArrayMessageReader reader(segments);
  visit(reader.getRoot<FaultBatch>());
  return true;
}

bool FaultRing::prepareToSleep() {
  shared_->sleeping.store(1, std::memory_order_seq_cst);
  if (shared_->produced.load(std::memory_order_seq_cst) == next_) return true;
  shared_->sleeping.store(0, std::memory_order_relaxed);
  return false;
}

void FaultRing::awake() {
  shared_->sleeping.store(0, std::memory_order_relaxed);
}

}  // namespace faultline::rpc
