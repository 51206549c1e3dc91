// Ways in which a process can give memory up, and what a userfaultfd with UFFD_FEATURE_EVENT_REMOVE hears of each: the
// table of docs/promises.md.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "tests/support/target.h"
#include "uffd/uffd.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t SMALL = 4096, HUGE = 2ull << 20;
// include/uapi/asm-generic/mman-common.h; older headers lack some.
constexpr int DONTNEED_LOCKED = 24, GUARD_INSTALL = 102, GUARD_REMOVE = 103;

// Four pages that are registered and missing: private, or of a memfd.
class Memory {
 public:
  enum class Kind { isPrivate, isShared };
  Memory(Kind kind, std::uint64_t pageSize) : pageSize_(pageSize) {
    const bool huge = pageSize == HUGE;
    uffd_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_EVENT_REMOVE;
    EXPECT_EQ(ioctl(uffd_, UFFDIO_API, &api), 0);
    if (kind == Kind::isShared) {
      file_ = memfd_create("guest", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
      EXPECT_EQ(ftruncate(file_, static_cast<off_t>(bytes())), 0);
    }
    const int flags = file_ >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | (huge ? MAP_HUGETLB : 0);
    void* start = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, file_, 0);
    EXPECT_NE(start, MAP_FAILED);
    memory_ = static_cast<unsigned char*>(start);
    uffdio_register range{};
    range.range = {address(0), bytes()};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    EXPECT_EQ(ioctl(uffd_, UFFDIO_REGISTER, &range), 0);
  }
  ~Memory() {
    munmap(memory_, bytes());
    close(uffd_);
    if (file_ >= 0) close(file_);
  }
  Memory(const Memory&) = delete;

  std::uint64_t bytes() const { return 4 * pageSize_; }
  std::uint64_t address(std::uint64_t page) const {
    return reinterpret_cast<std::uint64_t>(memory_) + page * pageSize_;
  }
  unsigned char* at(std::uint64_t page, std::uint64_t offset = 0) const {
    return memory_ + page * pageSize_ + offset;
  }
  int file() const { return file_; }

  // Populates a page with 's', as a page server does with a snapshot's bytes.
  uffd::Outcome fill(std::uint64_t page) const {
    const std::vector<unsigned char> bytes(pageSize_, 's');
    return uffd::copy(uffd_, address(page), bytes.data(), pageSize_, uffd::Protect::no, uffd::Waiters::wake)
        .outcome;
  }

  struct Told {
    int error = 0;                                                 // of the call; 0: it worked
    std::vector<std::pair<std::uint64_t, std::uint64_t>> removed;  // bytes of the memory, from and to
  };
  // Events that are told while `giveUp` runs. That waits until its event is read.
  Told whatIsTold(const std::function<int()>& giveUp) const {
    Told told;
    std::atomic<bool> done{false};
    std::thread thread([&] {
      told.error = giveUp() == 0 ? 0 : errno;
      done = true;
    });
    const auto readAll = [&] {
      uffd_msg message;
      while (read(uffd_, &message, sizeof message) == static_cast<ssize_t>(sizeof message))
        if (message.event == UFFD_EVENT_REMOVE)
          told.removed.emplace_back(message.arg.remove.start - address(0),
                                    message.arg.remove.end - address(0));
    };
    while (!done) {
      readAll();
      sched_yield();
    }
    thread.join();
    readAll();
    return told;
  }
  Told advise(std::uint64_t offset, std::uint64_t length, int advice) const {
    return whatIsTold([&] { return madvise(memory_ + offset, length, advice); });
  }

 private:
  const std::uint64_t pageSize_;
  int uffd_ = -1, file_ = -1;
  unsigned char* memory_ = nullptr;
};

using Kind = Memory::Kind;
using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
const Ranges SECOND_PAGE{{SMALL, 2 * SMALL}}, NOTHING;

// --- told, and followed ---

TEST(GivingUp, PrivateMemoryIsTold) {
  for (const int advice : {MADV_DONTNEED, MADV_FREE, DONTNEED_LOCKED}) {
    const Memory memory(Kind::isPrivate, SMALL);
    const auto told = memory.advise(SMALL, SMALL, advice);
    if (told.error == EINVAL && advice == DONTNEED_LOCKED) continue;  // before Linux 5.18
    EXPECT_EQ(told.error, 0) << advice;
    EXPECT_EQ(told.removed, SECOND_PAGE) << advice;
  }
}

TEST(GivingUp, ByProcessMadviseIsToldWhereItIsPossibleAtAll) {
  const Memory memory(Kind::isPrivate, SMALL);
  const int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  const auto told = memory.whatIsTold([&] {
    const iovec range{memory.at(1), SMALL};
    return syscall(SYS_process_madvise, self, &range, 1, MADV_DONTNEED, 0) == static_cast<ssize_t>(SMALL)
               ? 0
               : -1;
  });
  close(self);
  if (told.error == 0)
    EXPECT_EQ(told.removed, SECOND_PAGE);
  else
    EXPECT_EQ(told.error, EINVAL);
}

TEST(GivingUp, OfSharedMemoryByMadvRemoveIsTold) {
  const Memory memory(Kind::isShared, SMALL);
  const auto told = memory.advise(SMALL, SMALL, MADV_REMOVE);
  EXPECT_EQ(told.error, 0);
  EXPECT_EQ(told.removed, SECOND_PAGE);
}

// --- told, and not what it seems ---

// The content is in the page cache, which MADV_DONTNEED does not concern.
TEST(GivingUp, OfSharedMemoryByMadvDontneedIsToldAndDropsNoContent) {
  const Memory memory(Kind::isShared, SMALL);
  ASSERT_EQ(memory.fill(1), uffd::Outcome::done);
  const auto told = memory.advise(SMALL, SMALL, MADV_DONTNEED);
  EXPECT_EQ(told.error, 0);
  EXPECT_EQ(told.removed, SECOND_PAGE);
  EXPECT_EQ(*memory.at(1), 's');
}

TEST(GivingUp, APartOfASharedHugePageIsToldAndClearedOnlyWhereThePageIsThere) {
  if (!hugePagesAvailable(8)) GTEST_SKIP() << "no huge pages";
  const Memory memory(Kind::isShared, HUGE);
  ASSERT_EQ(memory.fill(0), uffd::Outcome::done);
  for (const std::uint64_t page : {0, 1}) {
    const std::uint64_t from = page * HUGE + SMALL;
    const auto told = memory.advise(from, SMALL, MADV_REMOVE);
    EXPECT_EQ(told.error, 0);
    EXPECT_EQ(told.removed, (Ranges{{from, from + SMALL}}));
  }
  EXPECT_EQ(*memory.at(0), 's');
  EXPECT_EQ(*memory.at(0, SMALL), 0);
  // Memory that is filled in later has what was given up.
  ASSERT_EQ(memory.fill(1), uffd::Outcome::done);
  EXPECT_EQ(*memory.at(1, SMALL), 's');
}

// --- not possible, and so not told ---

TEST(GivingUp, APartOfAPrivateHugePageIsNotPossible) {
  if (!hugePagesAvailable(4)) GTEST_SKIP() << "no huge pages";
  const Memory memory(Kind::isPrivate, HUGE);
  ASSERT_EQ(memory.fill(0), uffd::Outcome::done);
  for (const auto& [offset, advice] :
       {std::pair(SMALL, MADV_DONTNEED), {0ul, MADV_DONTNEED}, {0ul, MADV_FREE}}) {
    const auto told = memory.advise(offset, SMALL, advice);
    EXPECT_EQ(told.removed, NOTHING) << offset << " " << advice;
    EXPECT_EQ(*memory.at(0, offset), 's') << offset << " " << advice;
  }
}

TEST(GivingUp, PrivateMemoryByMadvRemoveIsNotPossible) {
  const Memory memory(Kind::isPrivate, SMALL);
  const auto told = memory.advise(SMALL, SMALL, MADV_REMOVE);
  EXPECT_NE(told.error, 0);
  EXPECT_EQ(told.removed, NOTHING);
}

// --- not told ---

TEST(GivingUpUntold, AHoleThatIsPunchedIntoTheFile) {
  const Memory memory(Kind::isShared, SMALL);
  ASSERT_EQ(memory.fill(1), uffd::Outcome::done);
  const auto told = memory.whatIsTold(
      [&] { return fallocate(memory.file(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SMALL, SMALL); });
  EXPECT_EQ(told.error, 0);
  EXPECT_EQ(told.removed, NOTHING);
  EXPECT_EQ(memory.fill(1), uffd::Outcome::done);  // it is missing again
}

TEST(GivingUpUntold, AFileThatIsTruncated) {
  const Memory memory(Kind::isShared, SMALL);
  const auto told = memory.whatIsTold(
      [&] { return ftruncate(memory.file(), SMALL) != 0 ? -1 : ftruncate(memory.file(), 4 * SMALL); });
  EXPECT_EQ(told.error, 0);
  EXPECT_EQ(told.removed, NOTHING);
}

TEST(GivingUpUntold, GuardPages) {
  const Memory memory(Kind::isPrivate, SMALL);
  ASSERT_EQ(memory.fill(1), uffd::Outcome::done);
  const auto installed = memory.advise(SMALL, SMALL, GUARD_INSTALL);
  if (installed.error == EINVAL) GTEST_SKIP() << "this kernel has no guard pages (Linux 6.13 has)";
  EXPECT_EQ(installed.removed, NOTHING);
  const auto removed = memory.advise(SMALL, SMALL, GUARD_REMOVE);
  EXPECT_EQ(removed.error, 0);
  EXPECT_EQ(removed.removed, NOTHING);
  EXPECT_EQ(memory.fill(1), uffd::Outcome::done);  // its content has gone
}

// What is mapped there is registered with a userfaultfd of its own: the first one populates it all the same.
TEST(GivingUpUntold, MemoryThatAnotherUserfaultfdHas) {
  const Memory memory(Kind::isPrivate, SMALL);
  void* over = mmap(memory.at(0), memory.bytes(), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  ASSERT_EQ(over, memory.at(0));
  const int other = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  uffdio_api api{};
  api.api = UFFD_API;
  ASSERT_EQ(ioctl(other, UFFDIO_API, &api), 0);
  uffdio_register range{};
  range.range = {memory.address(0), memory.bytes()};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(ioctl(other, UFFDIO_REGISTER, &range), 0);
  EXPECT_EQ(memory.fill(1), uffd::Outcome::done);
  EXPECT_EQ(*memory.at(1), 's');
  close(other);
}

TEST(GivingUpUntold, MemoryThatIsMappedOver) {
  const Memory memory(Kind::isPrivate, SMALL);
  const auto told = memory.whatIsTold([&] {
    void* over =
        mmap(memory.at(1), SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return over == MAP_FAILED ? -1 : 0;
  });
  EXPECT_EQ(told.error, 0);
  EXPECT_EQ(told.removed, NOTHING);
  EXPECT_EQ(memory.fill(1), uffd::Outcome::rangeGone);
}

}  // namespace
}  // namespace faultline::test
