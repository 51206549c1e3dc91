#include "coordinator/touch_recorder.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>

#include "process/duplicate.h"

namespace faultline::coordinator {

namespace {
constexpr std::uint64_t MAGIC = 0x3168'6375'6f74'6c66;  // "fltouch1"
// Against a mapping whose end has gone: that would be a SIGBUS for the coordinator.
constexpr int SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
}  // namespace

struct TouchRecorder::Shared {
  std::uint64_t magic;
  std::atomic<std::uint64_t> recorded;
  std::atomic<std::uint64_t> lost;
  std::uint64_t unused;

  std::uint32_t* entries() { return reinterpret_cast<std::uint32_t*>(this + 1); }
  static std::size_t bytesFor(std::uint64_t capacity) {
    return sizeof(Shared) + capacity * sizeof(std::uint32_t);
  }
};

TouchRecorder::TouchRecorder(std::uint64_t pages)
    : pages_(pages), capacity_(std::min(pages, MAX_TOUCHES)), seen_((pages + 63) / 64) {
  KJ_REQUIRE(pages <= std::numeric_limits<std::uint32_t>::max(),
             "a restore of so many pages cannot be recorded", pages);
  int fd;
  KJ_SYSCALL(fd = memfd_create("faultline-touches", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  fd_ = kj::AutoCloseFd(fd);
  KJ_SYSCALL(ftruncate(fd, static_cast<off_t>(Shared::bytesFor(capacity_))));
  KJ_SYSCALL(fcntl(fd, F_ADD_SEALS, SEALS));
  map().magic = MAGIC;
}

TouchRecorder::TouchRecorder(int fd, std::uint64_t pages)
    : pages_(pages),
      capacity_(std::min(pages, MAX_TOUCHES)),
      fd_(process::duplicate(fd)),
      seen_((pages + 63) / 64) {
  struct stat status {};
  KJ_SYSCALL(fstat(fd, &status));
  KJ_REQUIRE(static_cast<std::uint64_t>(status.st_size) == Shared::bytesFor(capacity_),
             "the recording has a size that does not fit its restore", status.st_size);
  KJ_REQUIRE((fcntl(fd, F_GET_SEALS) & SEALS) == SEALS, "the recording could lose its end");
  Shared& shared = map();
  const std::uint64_t recorded = shared.recorded.load(std::memory_order_acquire);
  auto sound = [&] {
    if (shared.magic != MAGIC || recorded > capacity_) return false;
    for (std::uint64_t i = 0; i < recorded; i++) {
      const std::uint32_t page = shared.entries()[i];
      if (page >= pages_) return false;
      std::uint64_t& word = seen_[page / 64];
      if ((word >> (page % 64) & 1) != 0) return false;
      word |= 1ull << (page % 64);
    }
    return true;
  };
  if (sound()) return;
  munmap(shared_, Shared::bytesFor(capacity_));
  KJ_FAIL_REQUIRE("the recording's bytes make no sense");
}

TouchRecorder::~TouchRecorder() {
  munmap(shared_, Shared::bytesFor(capacity_));
}

TouchRecorder::Shared& TouchRecorder::map() {
  void* start = mmap(nullptr, Shared::bytesFor(capacity_), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                     fd_.get(), 0);
  KJ_REQUIRE(start != MAP_FAILED, "no memory for a recording", std::strerror(errno));
  shared_ = static_cast<Shared*>(start);
  return *shared_;
}

void TouchRecorder::touched(shm::PageIndex page) {
  std::uint64_t& word = seen_[page / 64];
  const std::uint64_t bit = 1ull << (page % 64);
  if ((word & bit) != 0) return;
  word |= bit;
  const std::uint64_t position = shared_->recorded.load(std::memory_order_relaxed);
  if (position >= capacity_) {
    shared_->lost.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  // The entry before the count: a successor believes what the count says.
  shared_->entries()[position] = static_cast<std::uint32_t>(page);
  shared_->recorded.store(position + 1, std::memory_order_release);
}

std::uint64_t TouchRecorder::recorded() const {
  return std::min(shared_->recorded.load(std::memory_order_relaxed), capacity_);
}

std::uint64_t TouchRecorder::lost() const {
  return shared_->lost.load(std::memory_order_relaxed);
}

shm::PageIndex TouchRecorder::at(std::uint64_t position) const {
  return shared_->entries()[position];
}

}  // namespace faultline::coordinator
