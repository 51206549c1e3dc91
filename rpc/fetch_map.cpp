#include "rpc/fetch_map.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

namespace faultline::rpc {

namespace {

constexpr std::uint64_t MAGIC = 0x3170616d68637466;  // "ftchmap1"
constexpr int SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr std::uint64_t HEADER_BYTES = 4096;
// More than any memory has; keeps sums of sizes in range.
constexpr std::uint64_t MOST_BYTES = 1ull << 52;

std::uint64_t sizeFor(const FetchMap::Facts& facts) {
  const std::uint64_t chunks = (facts.bytes + FetchMap::CHUNK - 1) / FetchMap::CHUNK;
  const std::uint64_t pages = (facts.bytes + FetchMap::PAGE - 1) / FetchMap::PAGE;
  return HEADER_BYTES + chunks + (facts.layered ? (pages + 7) / 8 : 0);
}

}  // namespace

struct FetchMap::Header {
  std::uint64_t magic;
  std::uint64_t bytes, identity, layered;
  std::atomic<std::uint32_t> ready, broken;
};

FetchMap::FetchMap(void* start, std::size_t size)
    : header_(static_cast<Header*>(start)),
      size_(size),
      facts_{header_->bytes, header_->identity, header_->layered != 0},
      states_(reinterpret_cast<std::atomic<std::uint8_t>*>(static_cast<char*>(start) + HEADER_BYTES)),
      below_(nullptr) {}

FetchMap::FetchMap(FetchMap&& other) noexcept
    : header_(std::exchange(other.header_, nullptr)),
      size_(other.size_),
      facts_(other.facts_),
      states_(other.states_),
      below_(other.below_) {}

FetchMap::~FetchMap() {
  if (header_ != nullptr) munmap(static_cast<void*>(header_), size_);
}

kj::AutoCloseFd FetchMap::create(const Facts& facts) {
  KJ_REQUIRE(facts.bytes > 0 && facts.bytes <= MOST_BYTES, "no size of a source", facts.bytes);
  int memory;
  KJ_SYSCALL(memory = memfd_create("faultline-cache-map", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  kj::AutoCloseFd fd(memory);
  KJ_SYSCALL(ftruncate(memory, static_cast<off_t>(sizeFor(facts))));
  KJ_SYSCALL(fcntl(memory, F_ADD_SEALS, SEALS));
  Header header{};
  header.magic = MAGIC;
  header.bytes = facts.bytes;
  header.identity = facts.identity;
  header.layered = facts.layered ? 1 : 0;
  KJ_REQUIRE(pwrite(memory, &header, sizeof header, 0) == sizeof header, "no memory for a cache's map");
  return fd;
}

FetchMap FetchMap::attach(int memory, Access access) {
  struct stat status {};
  KJ_SYSCALL(fstat(memory, &status));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  KJ_REQUIRE(size > HEADER_BYTES && (fcntl(memory, F_GET_SEALS) & SEALS) == SEALS,
             "not the map of a cache of this build", size);
  void* start = mmap(nullptr, size, access == Access::write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                     memory, 0);
  if (start == MAP_FAILED) KJ_FAIL_SYSCALL("map the map of a cache", errno, size);
  FetchMap map(start, size);
  KJ_REQUIRE(map.header_->magic == MAGIC && map.facts_.bytes > 0 && map.facts_.bytes <= MOST_BYTES &&
                 sizeFor(map.facts_) == size,
             "not the map of a cache of this build", size);
  map.below_ = map.states_ + map.chunks();
  return map;
}

bool FetchMap::known(std::uint64_t offset, std::uint64_t length) const {
  for (std::uint64_t chunk = offset / CHUNK; chunk * CHUNK < offset + length; chunk++)
    if (state(chunk) == State::absent) return false;
  return true;
}

bool FetchMap::zero(std::uint64_t offset, std::uint64_t length) const {
  for (std::uint64_t chunk = offset / CHUNK; chunk * CHUNK < offset + length; chunk++)
    if (state(chunk) != State::zero) return false;
  return true;
}

void FetchMap::setBelow(std::uint64_t firstPage, std::uint64_t lastPage) {
  for (std::uint64_t page = firstPage; page < lastPage; page++) {
    if (page % 8 == 0 && page + 8 <= lastPage) {
      below_[page / 8].store(0xff, std::memory_order_relaxed);
      page += 7;
    } else {
      below_[page / 8].fetch_or(static_cast<std::uint8_t>(1u << page % 8), std::memory_order_relaxed);
    }
  }
}

bool FetchMap::ready() const {
  return header_->ready.load(std::memory_order_acquire) != 0;
}
FetchMap::Broken FetchMap::broken() const {
  return static_cast<Broken>(header_->broken.load(std::memory_order_acquire));
}
void FetchMap::setReady() {
  header_->ready.store(1, std::memory_order_release);
}
void FetchMap::setBroken(Broken why) {
  header_->broken.store(static_cast<std::uint32_t>(why), std::memory_order_release);
}

}  // namespace faultline::rpc
