// A look at memory of the test's own, without a restore.

#include "coordinator/look.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <kj/debug.h>
#include <kj/io.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "shmtracker/region_table.h"
#include "tests/support/own_addresses.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {
namespace {

using shm::SMALL_PAGE;

// Registered memory. (No fixture: KJ's destructors may throw, gtest's may not.)
struct Seen {
  explicit Seen(std::uint64_t pages, std::uint64_t size = SMALL_PAGE) : pageSize(size), bytes(pages * size) {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_EVENT_REMOVE;
    KJ_SYSCALL(ioctl(uffd.get(), UFFDIO_API, &api));
    memory = reinterpret_cast<char*>(test::OWN_ADDRESSES);
    map(0, pages);
    enroll(0, pages);
    const shm::Region region{reinterpret_cast<std::uint64_t>(memory), bytes, 0, pageSize};
    entries.resize(1);
    shm::RegionTable::build({&region, 1}, entries);
    look = std::make_unique<Look>(entries);
  }
  ~Seen() { munmap(memory, bytes); }

  char* at(std::uint64_t page) const { return memory + page * pageSize; }
  void map(std::uint64_t page, std::uint64_t count) const {
    const int huge = pageSize == SMALL_PAGE ? 0 : MAP_HUGETLB;
    ASSERT_NE(mmap(at(page), count * pageSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED | huge, -1, 0),
              MAP_FAILED);
  }
  void enroll(std::uint64_t page, std::uint64_t count) const {
    uffdio_register request{};
    request.range = {reinterpret_cast<std::uint64_t>(at(page)), count * pageSize};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    KJ_SYSCALL(ioctl(uffd.get(), UFFDIO_REGISTER, &request));
  }
  Sight once() { return look->look(uffd.get()).wait(io.waitScope); }
  // Looks as often as there is more; gives all that it has found.
  std::vector<shm::PageRange> round() {
    std::vector<shm::PageRange> gone;
    for (;;) {
      const Sight sight = once();
      gone.insert(gone.end(), sight.gone.begin(), sight.gone.end());
      nothingLeft = sight.nothingLeft;
      if (!sight.more) return gone;
    }
  }

  const std::uint64_t pageSize, bytes;
  const kj::AutoCloseFd uffd{static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  char* memory = nullptr;
  std::vector<shm::RegionEntry> entries;
  kj::AsyncIoContext io = kj::setupAsyncIo();
  std::unique_ptr<Look> look;
  bool nothingLeft = false;
};

std::vector<std::pair<std::uint64_t, std::uint64_t>> plain(const std::vector<shm::PageRange>& ranges) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> list;
  for (const auto& range : ranges) list.emplace_back(range.first, range.count);
  return list;
}
using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

TEST(Look, FindsNothingWhereAllIsRegistered) {
  Seen seen(4096);
  EXPECT_EQ(plain(seen.round()), Ranges{});
  EXPECT_FALSE(seen.nothingLeft);
}

TEST(Look, TakesNothingForGoneWhereMappingsAreSplit) {
  Seen seen(1000);
  for (std::uint64_t page = 0; page < 1000; page += 3) madvise(seen.at(page), SMALL_PAGE, MADV_DONTDUMP);
  EXPECT_EQ(plain(seen.round()), Ranges{});
}

TEST(Look, FindsWhatHasLeftInWhateverWayAndTellsItOnce) {
  Seen seen(1024);
  munmap(seen.at(0), SMALL_PAGE);
  munmap(seen.at(7), 2 * SMALL_PAGE);
  seen.map(100, 50);
  ASSERT_NE(mremap(seen.at(512), SMALL_PAGE, SMALL_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, seen.at(2048)),
            MAP_FAILED);
  ASSERT_EQ(uffd::unregister(seen.uffd.get(), reinterpret_cast<std::uint64_t>(seen.at(1020)), 4 * SMALL_PAGE),
            0);
  EXPECT_EQ(plain(seen.round()), (Ranges{{0, 1}, {7, 2}, {100, 50}, {512, 1}, {1020, 4}}));
  EXPECT_EQ(plain(seen.round()), Ranges{});
  EXPECT_FALSE(seen.nothingLeft);
  munmap(seen.at(1), SMALL_PAGE);
  EXPECT_EQ(plain(seen.round()), (Ranges{{1, 1}}));
}

// Other memory in the place of what has left says nothing of what was there.
TEST(Look, WhatIsRegisteredAnewIsNotFoundAgain) {
  Seen seen(16);
  seen.map(3, 2);
  EXPECT_EQ(plain(seen.round()), (Ranges{{3, 2}}));
  seen.enroll(3, 2);
  seen.map(4, 1);
  EXPECT_EQ(plain(seen.round()), Ranges{});
}

TEST(Look, SaysSoWhereNothingIsLeft) {
  Seen seen(600);
  munmap(seen.at(0), 300 * SMALL_PAGE);
  EXPECT_EQ(plain(seen.round()), (Ranges{{0, 300}}));
  EXPECT_FALSE(seen.nothingLeft);
  seen.map(300, 300);
  EXPECT_EQ(plain(seen.round()), (Ranges{{300, 300}}));
  EXPECT_TRUE(seen.nothingLeft);
  EXPECT_EQ(plain(seen.round()), Ranges{});
  EXPECT_TRUE(seen.nothingLeft);
}

// What we have unregistered ourselves is not asked for: not where a round begins, nor in the middle of one.
TEST(Look, LeavesOutWhatItIsTold) {
  Seen seen(1000);
  const auto letGo = [&](std::uint64_t page, std::uint64_t count) {
    ASSERT_EQ(
        uffd::unregister(seen.uffd.get(), reinterpret_cast<std::uint64_t>(seen.at(page)), count * SMALL_PAGE),
        0);
    seen.look->leaveOut({{page, count}});
  };
  letGo(500, 100);
  letGo(0, 10);
  EXPECT_EQ(plain(seen.round()), Ranges{});
  letGo(10, 490);
  munmap(seen.at(650), SMALL_PAGE);
  EXPECT_EQ(plain(seen.round()), (Ranges{{650, 1}}));
  EXPECT_FALSE(seen.nothingLeft);
  letGo(600, 50);
  letGo(651, 349);
  EXPECT_EQ(plain(seen.round()), Ranges{});
  EXPECT_TRUE(seen.nothingLeft);
}

TEST(Look, LeavesOutInTheMiddleOfARound) {
  constexpr std::uint64_t PAGES = Look::GONE + 100;
  Seen seen(PAGES + 10);
  munmap(seen.at(0), PAGES * SMALL_PAGE);
  EXPECT_TRUE(seen.once().more);
  seen.look->leaveOut({{Look::GONE + 50, 1000}});
  EXPECT_EQ(plain(seen.once().gone), (Ranges{{Look::GONE, 50}}));
}

// However large: one look ends after so many pages, and the next goes on where it ended.
TEST(Look, IsBounded) {
  constexpr std::uint64_t PAGES = Look::GONE + 100;
  Seen seen(PAGES + 10);
  munmap(seen.at(0), PAGES * SMALL_PAGE);
  const Sight first = seen.once();
  EXPECT_TRUE(first.more);
  EXPECT_EQ(plain(first.gone), (Ranges{{0, Look::GONE}}));
  const Sight second = seen.once();
  EXPECT_FALSE(second.more);
  EXPECT_EQ(plain(second.gone), (Ranges{{Look::GONE, 100}}));
  EXPECT_FALSE(second.nothingLeft);
}

TEST(Look, IsBoundedAlsoWhereThereAreManyMappings) {
  Seen seen(Look::QUESTIONS);
  for (std::uint64_t page = 0; page < Look::QUESTIONS; page += 2)
    madvise(seen.at(page), SMALL_PAGE, MADV_DONTDUMP);
  EXPECT_TRUE(seen.once().more);
  EXPECT_EQ(plain(seen.round()), Ranges{});
}

// The kernel tells nothing while a removal is under way: what it does not tell has not gone.
TEST(Look, WaitsForARemovalThatIsUnderWay) {
  Seen seen(16);
  munmap(seen.at(9), SMALL_PAGE);
  std::thread giving([&] { madvise(seen.at(1), SMALL_PAGE, MADV_DONTNEED); });
  while (!uffd::eventInFlight(seen.uffd.get())) sched_yield();
  const Sight during = seen.once();
  EXPECT_EQ(plain(during.gone), Ranges{});
  EXPECT_FALSE(during.more);
  EXPECT_FALSE(during.nothingLeft);
  uffd_msg message;
  ASSERT_EQ(read(seen.uffd.get(), &message, sizeof message), static_cast<ssize_t>(sizeof message));
  giving.join();
  EXPECT_EQ(plain(seen.round()), (Ranges{{9, 1}}));
}

TEST(Look, HugePages) {
  constexpr std::uint64_t PAGES = 8;
  Seen seen(PAGES, shm::HUGE_PAGE);
  EXPECT_EQ(plain(seen.round()), Ranges{});
  munmap(seen.at(2), 3 * shm::HUGE_PAGE);
  EXPECT_EQ(plain(seen.round()), (Ranges{{2, 3}}));
}

TEST(Look, ATargetThatIsThere) {
  Seen seen(1);
  EXPECT_EQ(lookWhetherThere(seen.uffd.get()).wait(seen.io.waitScope), Presence::there);
}

}  // namespace
}  // namespace faultline::coordinator
