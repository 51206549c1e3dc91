#include "rpc/fetch_ring.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <utility>

#include "process/clock.h"

namespace faultline::rpc {

namespace {

constexpr std::uint64_t MAGIC = 0x31676e6972746566;  // "fetring1"
constexpr int SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// A place's word: number of the question << 16 | error << 4 | state. A number is never used twice, so that an answer to a
// question of before is none.
enum State : unsigned {
  FREE = 0,
  ASKED = 1,
  TAKEN = 2,
  FILLING = 3,
  KEPT = 4,
  HAS_BYTES = 5,
  FAILED = 6,
  NOT_KEPT = 7
};
constexpr unsigned NUMBER_SHIFT = 16, ERROR_SHIFT = 4, STATE_MASK = 0xf, ERROR_MASK = 0xfff;

unsigned stateOf(std::uint64_t word) {
  return word & STATE_MASK;
}
std::uint64_t with(std::uint64_t word, unsigned state, int error = 0) {
  return word >> NUMBER_SHIFT << NUMBER_SHIFT | (static_cast<unsigned>(error) & ERROR_MASK) << ERROR_SHIFT |
         state;
}
std::uint64_t next(std::uint64_t word, unsigned state) {
  return with(word + (1ull << NUMBER_SHIFT), state);
}

// A futex is 32 bits: the low ones, in which each change of a word shows.
static_assert(std::endian::native == std::endian::little);

void futexWait(const void* word, std::uint32_t seen, std::uint64_t most) {
  const timespec timeout{static_cast<time_t>(most / 1'000'000'000), static_cast<long>(most % 1'000'000'000)};
  syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

void futexWake(void* word, int waiters) {
  syscall(SYS_futex, word, FUTEX_WAKE, waiters, nullptr, nullptr, 0);
}

}  // namespace

struct FetchRing::Memory {
  struct alignas(64) Place {
    std::atomic<std::uint64_t> word;
    std::atomic<std::uint64_t> chunk;
    std::atomic<std::uint32_t> purpose;
    std::atomic<std::uint32_t> tries;  // fetchers that have taken the question
    std::atomic<std::uint32_t> count;  // chunks; 0: one
  };

  std::uint64_t magic;
  alignas(64) std::atomic<std::uint32_t> doorbell;
  std::atomic<std::uint64_t> heldBackAt;
  std::atomic<std::uint64_t> used, fetched;  // bytes
  // Places that have been asked, by bits: hints, a place's word is the truth.
  alignas(64) std::atomic<std::uint64_t> asked[2][SHARDS];
  Place places[SHARDS][PLACES];
  alignas(4096) char bytes[SHARDS][PLACES][BYTES];  // memory only where an answer was

  Place& at(const Question& question) { return places[question.shard][question.place]; }
};

kj::AutoCloseFd FetchRing::create() {
  int memory;
  KJ_SYSCALL(memory = memfd_create("faultline-fetch-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  kj::AutoCloseFd fd(memory);
  KJ_SYSCALL(ftruncate(memory, sizeof(Memory)));
  KJ_SYSCALL(fcntl(memory, F_ADD_SEALS, SEALS));
  KJ_REQUIRE(pwrite(memory, &MAGIC, sizeof MAGIC, 0) == sizeof MAGIC, "no memory for a fetch ring");
  return fd;
}

FetchRing FetchRing::attach(int memory) {
  struct stat status {};
  KJ_SYSCALL(fstat(memory, &status));
  KJ_REQUIRE(static_cast<std::size_t>(status.st_size) == sizeof(Memory) &&
                 (fcntl(memory, F_GET_SEALS) & SEALS) == SEALS,
             "not a fetch ring of this build", status.st_size, sizeof(Memory));
  void* start = mmap(nullptr, sizeof(Memory), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory, 0);
  if (start == MAP_FAILED) KJ_FAIL_SYSCALL("map a fetch ring", errno);
  FetchRing ring(static_cast<Memory*>(start));
  KJ_REQUIRE(ring.memory_->magic == MAGIC, "not a fetch ring of this build", ring.memory_->magic);
  return ring;
}

std::uint64_t FetchRing::savedBytes(int memory) {
  std::uint64_t used = 0, fetched = 0;
  const bool there = pread(memory, &used, sizeof used, offsetof(Memory, used)) == sizeof used &&
                     pread(memory, &fetched, sizeof fetched, offsetof(Memory, fetched)) == sizeof fetched;
  return there && used > fetched ? used - fetched : 0;
}

FetchRing::FetchRing(FetchRing&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}

FetchRing::~FetchRing() {
  if (memory_ != nullptr) munmap(static_cast<void*>(memory_), sizeof(Memory));
}

// --- the asker's ---

bool FetchRing::reclaim(unsigned shard, unsigned place) {
  Memory::Place& at = memory_->places[shard][place];
  std::uint64_t word = at.word.load(std::memory_order_acquire);
  while (stateOf(word) != FREE) {
    if (stateOf(word) == FILLING) return false;
    if (at.word.compare_exchange_weak(word, next(word, FREE), std::memory_order_acq_rel)) break;
  }
  return true;
}

void FetchRing::ask(unsigned shard, unsigned place, std::uint64_t chunk, Purpose purpose,
                    std::uint32_t count) {
  Memory::Place& at = memory_->places[shard][place];
  at.chunk.store(chunk, std::memory_order_relaxed);
  at.purpose.store(static_cast<std::uint32_t>(purpose), std::memory_order_relaxed);
  at.tries.store(0, std::memory_order_relaxed);
  at.count.store(count, std::memory_order_relaxed);
  at.word.store(next(at.word.load(std::memory_order_relaxed), ASKED), std::memory_order_release);
  memory_->asked[static_cast<unsigned>(purpose)][shard].fetch_or(1ull << place, std::memory_order_acq_rel);
  memory_->doorbell.fetch_add(1, std::memory_order_acq_rel);
  futexWake(&memory_->doorbell, 1);
}

FetchRing::Answer FetchRing::await(unsigned shard, unsigned place, std::uint64_t deadline) {
  Memory::Place& at = memory_->places[shard][place];
  for (;;) {
    const std::uint64_t word = at.word.load(std::memory_order_acquire);
    switch (stateOf(word)) {
      case KEPT:
        return {Answer::Kind::kept};
      case HAS_BYTES:
        return {Answer::Kind::bytes};
      case NOT_KEPT:
        return {Answer::Kind::notKept};
      case FAILED: {
        const auto error = static_cast<int>(word >> ERROR_SHIFT & ERROR_MASK);
        return {Answer::Kind::failed, error == 0 ? EIO : error};
      }
      default:
        break;
    }
    const std::uint64_t now = process::nowNs();
    if (now >= deadline) return {Answer::Kind::late};
    futexWait(&at.word, static_cast<std::uint32_t>(word), deadline - now);
  }
}

const char* FetchRing::bytes(unsigned shard, unsigned place) const {
  return memory_->bytes[shard][place];
}

void FetchRing::countUsed(std::uint64_t bytes) {
  memory_->used.fetch_add(bytes, std::memory_order_relaxed);
}

void FetchRing::countFetched(std::uint64_t bytes) {
  memory_->fetched.fetch_add(bytes, std::memory_order_relaxed);
}

std::uint64_t FetchRing::heldBackAt() const {
  return memory_->heldBackAt.load(std::memory_order_relaxed);
}

// --- the fetcher's ---

void FetchRing::recover(Former former) {
  for (unsigned shard = 0; shard < SHARDS; shard++) {
    for (unsigned place = 0; place < PLACES; place++) {
      Memory::Place& at = memory_->places[shard][place];
      std::uint64_t word = at.word.load(std::memory_order_acquire);
      while (stateOf(word) == ASKED || stateOf(word) == TAKEN || stateOf(word) == FILLING) {
        const bool taken = stateOf(word) != ASKED;
        if (!at.word.compare_exchange_weak(word, with(word, ASKED), std::memory_order_acq_rel)) continue;
        if (taken && former == Former::killed && at.tries.load(std::memory_order_relaxed) > 0)
          at.tries.fetch_sub(1, std::memory_order_relaxed);
        const unsigned purpose = at.purpose.load(std::memory_order_relaxed) & 1;
        memory_->asked[purpose][shard].fetch_or(1ull << place, std::memory_order_acq_rel);
        break;
      }
    }
  }
}

std::optional<FetchRing::Question> FetchRing::take(Purpose purpose) {
  for (unsigned shard = 0; shard < SHARDS; shard++) {
    auto& asked = memory_->asked[static_cast<unsigned>(purpose)][shard];
    for (std::uint64_t bits = asked.load(std::memory_order_acquire); bits != 0;
         bits = asked.load(std::memory_order_acquire)) {
      const auto place = static_cast<unsigned>(std::countr_zero(bits));
      if ((asked.fetch_and(~(1ull << place), std::memory_order_acq_rel) & 1ull << place) == 0) continue;
      Memory::Place& at = memory_->places[shard][place];
      std::uint64_t word = at.word.load(std::memory_order_acquire);
      if (stateOf(word) != ASKED ||
          !at.word.compare_exchange_strong(word, with(word, TAKEN), std::memory_order_acq_rel))
        continue;
      const Question question{shard,
                              place,
                              with(word, TAKEN),
                              at.chunk.load(std::memory_order_relaxed),
                              std::max(at.count.load(std::memory_order_relaxed), 1u),
                              purpose};
      if (at.tries.fetch_add(1, std::memory_order_relaxed) < MOST_TRIES) return question;
      answerFailed(question, EIO);
    }
  }
  return std::nullopt;
}

bool FetchRing::isOpen(const Question& question) const {
  return memory_->at(question).word.load(std::memory_order_acquire) == question.word;
}

void FetchRing::answer(const Question& question, std::uint64_t from, unsigned state, int error) {
  Memory::Place& at = memory_->at(question);
  if (at.word.compare_exchange_strong(from, with(from, state, error), std::memory_order_acq_rel))
    futexWake(&at.word, INT_MAX);
}

void FetchRing::answerKept(const Question& question) {
  answer(question, question.word, KEPT, 0);
}

void FetchRing::answerNotKept(const Question& question) {
  answer(question, question.word, NOT_KEPT, 0);
}

void FetchRing::answerFailed(const Question& question, int error) {
  answer(question, question.word, FAILED, error);
}

void FetchRing::answerBytes(const Question& question, std::span<const std::byte> bytes) {
  Memory::Place& at = memory_->at(question);
  std::uint64_t word = question.word;
  if (!at.word.compare_exchange_strong(word, with(word, FILLING), std::memory_order_acq_rel)) return;
  std::memcpy(memory_->bytes[question.shard][question.place], bytes.data(),
              std::min<std::size_t>(bytes.size(), BYTES));
  answer(question, with(question.word, FILLING), HAS_BYTES, 0);
}

void FetchRing::holdBack(std::uint64_t now) {
  memory_->heldBackAt.store(now, std::memory_order_relaxed);
}

std::uint32_t FetchRing::doorbell() const {
  return memory_->doorbell.load(std::memory_order_acquire);
}

void FetchRing::awaitQuestion(std::uint32_t seen, std::uint64_t most) {
  futexWait(&memory_->doorbell, seen, most);
}

void FetchRing::wakeFetcher(Wake whom) {
  memory_->doorbell.fetch_add(1, std::memory_order_acq_rel);
  futexWake(&memory_->doorbell, whom == Wake::all ? INT_MAX : 1);
}

}  // namespace faultline::rpc
