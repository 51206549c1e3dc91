// All ways of giving memory up, through the whole service: what is followed reads as zeros; what the kernel does not tell
// is shown as docs/promises.md names it.

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "tests/race/race_test.h"
#include "tests/support/child_process.h"
#include "tests/support/raw_vmm.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t PAGES = 64;
constexpr int DONTNEED_LOCKED = 24, GUARD_INSTALL = 102, GUARD_REMOVE = 103;  // linux/mman-common.h

// A VMM whose memory is shared.
struct SharedMemory {
  SharedMemory() {
    KJ_SYSCALL(ftruncate(file.get(), PAGES * SMALL));
    vmm.emplace(std::vector<std::uint64_t>{PAGES * SMALL}, SMALL, UFFD_FEATURE_EVENT_REMOVE,
                UFFDIO_REGISTER_MODE_MISSING, file.get());
    vmm->connect(server.socket());
    vmm->send(vmm->body(",\"page_size\":4096"), {vmm->uffd()});
    server.restore();
  }
  void* at(std::uint64_t page) const { return const_cast<unsigned char*>(vmm->at(0, page * SMALL)); }
  // The page's first byte, and the image's there.
  unsigned char byte(std::uint64_t page) const { return *vmm->at(0, page * SMALL); }
  unsigned char wanted(std::uint64_t page) const { return image.at(page * SMALL); }

  const Image image{PAGES * SMALL};
  Server server{image};
  kj::AutoCloseFd file{memfd_create("guest", MFD_CLOEXEC)};
  std::optional<RawVmm> vmm;
};

unsigned char* plain(volatile unsigned char* address) {
  return const_cast<unsigned char*>(address);
}

// --- followed ---

TEST(WaysOfGivingUp, PrivateMemoryByEveryAdviceThatThereIs) {
  Image image(PAGES * SMALL);
  Server server(image);
  const Target target(image, server.socket(), SMALL);
  server.restore();
  std::uint64_t page = 0;
  for (const int advice : {MADV_DONTNEED, MADV_FREE, DONTNEED_LOCKED}) {
    page += 4;
    if (madvise(plain(target.address(page)), 2 * SMALL, advice) != 0)
      continue;  // the kernel has no such advice
    EXPECT_TRUE(target.isAll(page, 0)) << advice;
    EXPECT_TRUE(target.isAll(page + 1, 0)) << advice;
    EXPECT_TRUE(target.holdsImage(page - 1)) << advice;
    EXPECT_TRUE(target.holdsImage(page + 2)) << advice;
  }
}

TEST(WaysOfGivingUp, SharedMemoryByMadvRemove) {
  SharedMemory memory;
  EXPECT_EQ(memory.byte(4), memory.wanted(4));
  ASSERT_EQ(madvise(memory.at(4), 2 * SMALL, MADV_REMOVE), 0);
  EXPECT_EQ(memory.byte(4), 0);
  EXPECT_EQ(memory.byte(5), 0);
  EXPECT_EQ(memory.byte(6), memory.wanted(6));
}

// --- not promised: the kernel tells of nothing, or of what is not so ---

TEST(NotPromised, SharedMemoryByMadvDontneedKeepsWhatHasComeAndLosesTheRest) {
  SharedMemory memory;
  EXPECT_EQ(memory.byte(4), memory.wanted(4));
  ASSERT_EQ(madvise(memory.at(4), 2 * SMALL, MADV_DONTNEED), 0);
  EXPECT_EQ(memory.byte(4), memory.wanted(4));
  EXPECT_EQ(memory.byte(5), 0);
}

TEST(NotPromised, APageThatAHoleWasPunchedIntoHasTheSnapshotsBytesIfItHadNotCome) {
  SharedMemory memory;
  EXPECT_EQ(memory.byte(4), memory.wanted(4));
  ASSERT_EQ(fallocate(memory.file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * SMALL, 2 * SMALL),
            0);
  EXPECT_EQ(memory.byte(4), 0);
  EXPECT_EQ(memory.byte(5), memory.wanted(5));
}

TEST(NotPromised, APageUnderAGuardHasTheSnapshotsBytesAfterItIfItHadNotCome) {
  Image image(PAGES * SMALL);
  Server server(image);
  const Target target(image, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(4));
  unsigned char* const pages = plain(target.address(4));
  if (madvise(pages, 2 * SMALL, GUARD_INSTALL) != 0)
    GTEST_SKIP() << "this kernel has no guard pages (Linux 6.13 has)";
  ASSERT_EQ(madvise(pages, 2 * SMALL, GUARD_REMOVE), 0);
  EXPECT_TRUE(target.isAll(4, 0));
  EXPECT_TRUE(target.holdsImage(5));
}

TEST(NotPromised, AChildByForkReadsZerosInPagesThatHadNotCome) {
  Image image(PAGES * SMALL);
  Server server(image);
  const Target target(image, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(4));
  ChildProcess child([&] { _exit(target.holdsImage(4) && target.isAll(5, 0) ? 0 : 1); });
  EXPECT_EQ(child.join(), 0);
  EXPECT_TRUE(target.holdsImage(5));
}

}  // namespace
}  // namespace faultline::test
