// The end of a registration alone, with memory of the test's own.

#include "coordinator/departure.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>
#include <utility>

#include "coordinator/own_thread.h"
#include "process/duplicate.h"
#include "shmtracker/region_table.h"
#include "shmtracker/segment.h"
#include "tests/support/exclusive.h"
#include "tests/support/own_addresses.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {
namespace {

using shm::SMALL_PAGE;
using uffd::Registration;

constexpr std::uint64_t PAGES = 64;

kj::AutoCloseFd newUffd() {
  kj::AutoCloseFd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_REMOVE;
  KJ_SYSCALL(ioctl(fd.get(), UFFDIO_API, &api));
  return fd;
}

// Memory between two pages that it is never one mapping with.
class Memory {
 public:
  explicit Memory(std::uint64_t pages = PAGES) : bytes_((pages + 2) * SMALL_PAGE) {
    static char* next = reinterpret_cast<char*>(test::OWN_ADDRESSES);
    room_ = std::exchange(next, next + (1 << 30));
    void* placed = mmap(room_, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    EXPECT_EQ(placed, room_);
    map(0, pages);
  }
  ~Memory() { munmap(room_, bytes_); }
  Memory(const Memory&) = delete;

  char* at(std::uint64_t page) const { return room_ + (page + 1) * SMALL_PAGE; }
  std::uint64_t address(std::uint64_t page) const { return reinterpret_cast<std::uint64_t>(at(page)); }
  void map(std::uint64_t page, std::uint64_t count, int file = -1) const {
    ASSERT_NE(mmap(at(page), count * SMALL_PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_FIXED | (file < 0 ? MAP_ANONYMOUS : 0), file, 0),
              MAP_FAILED);
  }
  void enroll(int uffd, std::uint64_t page, std::uint64_t count) const {
    uffdio_register request{};
    request.range = {address(page), count * SMALL_PAGE};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    KJ_SYSCALL(ioctl(uffd, UFFDIO_REGISTER, &request));
  }

 private:
  const std::uint64_t bytes_;
  char* room_;
};

std::uint64_t registeredWith(int uffd, const Memory& memory, std::uint64_t pages = PAGES) {
  std::uint64_t count = 0;
  for (std::uint64_t page = 0; page < pages; page++)
    count += uffd::registrationOf(uffd, memory.address(page), SMALL_PAGE) == Registration::registered ? 1 : 0;
  return count;
}

// The target is this process. (No fixture: KJ's destructors may throw, gtest's may not.)
struct Leaving {
  DepartureOrder order(const Memory& memory, std::uint64_t first = 0, std::uint64_t count = PAGES) const {
    const shm::Region region{memory.address(first), count * SMALL_PAGE, 0, SMALL_PAGE};
    DepartureOrder order{process::duplicate(uffd.get()), {}, DepartureOrder::Poison::nothing};
    order.regions.resize(1);
    shm::RegionTable::build({&region, 1}, order.regions);
    return order;
  }
  Departed leave(DepartureOrder order) { return depart(kj::mv(order)).wait(io.waitScope); }
  std::uint64_t registered(const Memory& memory, std::uint64_t pages = PAGES) const {
    return registeredWith(uffd.get(), memory, pages);
  }

  const kj::AutoCloseFd uffd = newUffd();
  const kj::AutoCloseFd self{static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0))};
  kj::AsyncIoContext io = kj::setupAsyncIo();
};

// The kernel refuses a range with a mapping in it that it would not register.
TEST(Departure, WhatHasBecomeAFileDoesNotKeepTheRestRegistered) {
  Leaving leaving;
  Memory memory;
  memory.enroll(leaving.uffd.get(), 0, PAGES);
  const kj::AutoCloseFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  memory.map(5, 3, file.get());
  memory.map(40, 1, file.get());
  ASSERT_NE(uffd::unregister(leaving.uffd.get(), memory.address(0), PAGES * SMALL_PAGE), 0);
  const Departed how = leaving.leave(leaving.order(memory));
  EXPECT_EQ(how.kept, 0u);
  EXPECT_EQ(leaving.registered(memory), 0u);
}

// The kernel refuses a range in which nothing is mapped.
TEST(Departure, WhatIsMappedNoMoreNeedsNoLettingGo) {
  Leaving leaving;
  Memory memory;
  memory.enroll(leaving.uffd.get(), 0, PAGES);
  munmap(memory.at(0), PAGES * SMALL_PAGE);
  EXPECT_EQ(leaving.leave(leaving.order(memory)).kept, 0u);
}

// Memory of a living process, 256 GiB, that was found gone page by page: to search it so once more would outlast the 20 s
// that the end of a service gives a target.
TEST(Departure, WhatWasFoundGoneIsNotSearchedAgain) {
  constexpr std::uint64_t MANY = 1ull << 26;
  Leaving leaving;
  shm::Segment segment =
      shm::Segment::create({.restoreId = 1,
                            .name = "gone",
                            .sourceName = "",
                            .regions = {{test::OWN_ADDRESSES, MANY * SMALL_PAGE, 0, SMALL_PAGE}},
                            .sourceBytes = MANY * SMALL_PAGE});
  segment.pages().markGone(test::exclusive(segment), {0, MANY});
  DepartureOrder order{process::duplicate(leaving.uffd.get()), {}, DepartureOrder::Poison::nothing};
  order.regions.assign(segment.regions().entries().begin(), segment.regions().entries().end());
  order.segment = process::duplicate(segment.fd());
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(leaving.leave(kj::mv(order)).kept, 0u);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
}

// A target that has as many mappings as it may: to unregister a part of one would make it two.
TEST(Departure, WhatTheKernelDoesNotUnregisterIsCounted) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer needs mappings of its own";
#endif
  Leaving leaving;
  Memory memory;
  memory.enroll(leaving.uffd.get(), 0, PAGES);
  std::uint64_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  if (most > 1'000'000) GTEST_SKIP() << "vm.max_map_count is " << most;
  prepareOwnThreads();
  std::thread([] {}).join();  // its stack is the next one's
  auto* filler = static_cast<char*>(
      mmap(nullptr, most * SMALL_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  ASSERT_NE(static_cast<void*>(filler), MAP_FAILED);
  for (std::uint64_t page = 1; page < most; page += 2)
    if (mprotect(filler + page * SMALL_PAGE, SMALL_PAGE, PROT_READ) != 0) break;
  DepartureOrder order = leaving.order(memory, 8, 16);
  const Departed how = leaving.leave(kj::mv(order));
  const std::uint64_t left = leaving.registered(memory);
  munmap(filler, most * SMALL_PAGE);
  EXPECT_EQ(how.kept, 16 * SMALL_PAGE);
  EXPECT_EQ(how.firstKept, memory.address(8));
  EXPECT_EQ(left, PAGES);
  EXPECT_EQ(leaving.leave(leaving.order(memory, 8, 16)).kept, 0u);
  EXPECT_EQ(leaving.registered(memory), PAGES - 16);
}

TEST(Departure, WhatWasNamedInNoRegionIsUnregisteredToo) {
  Leaving leaving;
  Memory memory, other;
  memory.enroll(leaving.uffd.get(), 0, PAGES);
  other.enroll(leaving.uffd.get(), 3, 5);
  DepartureOrder order = leaving.order(memory, 0, PAGES / 2);
  order.target = process::duplicate(leaving.self.get());
  EXPECT_EQ(leaving.leave(kj::mv(order)).unnamed, (PAGES / 2 + 5) * SMALL_PAGE);
  EXPECT_EQ(leaving.registered(memory), 0u);
  EXPECT_EQ(leaving.registered(other), 0u);
}

// A process may have several userfaultfds, each with a restore of its own.
TEST(Departure, WhatIsRegisteredWithAnotherUserfaultfdIsNot) {
  Leaving leaving;
  const kj::AutoCloseFd another = newUffd();
  Memory memory, other;
  memory.enroll(leaving.uffd.get(), 0, PAGES);
  other.enroll(another.get(), 0, PAGES);
  DepartureOrder order = leaving.order(memory);
  order.target = process::duplicate(leaving.self.get());
  order.faultedOutside = {other.address(1)};
  EXPECT_EQ(leaving.leave(kj::mv(order)).unnamed, 0u);
  EXPECT_EQ(registeredWith(another.get(), other), PAGES);
}

// Where the process is not known, faults that came from outside of the regions tell where it is.
TEST(Departure, WhatHasFaultedOutsideOfTheRegionsIsFoundWithoutTheProcess) {
  Leaving leaving;
  Memory memory, other(700);
  memory.enroll(leaving.uffd.get(), 0, PAGES);
  other.enroll(leaving.uffd.get(), 1, 698);
  DepartureOrder order = leaving.order(memory);
  order.faultedOutside = {other.address(333) + 17};
  EXPECT_EQ(leaving.leave(kj::mv(order)).unnamed, 698 * SMALL_PAGE);
  EXPECT_EQ(leaving.registered(other, 700), 0u);
}

}  // namespace
}  // namespace faultline::coordinator
