// Which parts of a source are used in place: those where faults are dense and the page cache has everything.

#include "shard/source/resident_windows.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "shard/source/bus_guard.h"
#include "shard/source/raw_file.h"
#include "shmtracker/pages.h"
#include "tests/support/image.h"

namespace faultline::shard {
namespace {

constexpr std::uint64_t WINDOW = ResidentWindows::WINDOW, PIECE = ResidentWindows::PIECE,
                        PAGE = shm::SMALL_PAGE;
constexpr std::uint64_t NOW = 1'000'000'000'000;

kj::AutoCloseFd openFile(const std::string& path) {
  return kj::AutoCloseFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

// Whether this process has the page in its page table (pagemap(5), bit 63).
bool isMapped(const void* page) {
  const kj::AutoCloseFd pagemap = openFile("/proc/self/pagemap");
  std::uint64_t entry = 0;
  const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(page) / PAGE * sizeof entry);
  EXPECT_EQ(pread(pagemap.get(), &entry, sizeof entry, at), static_cast<ssize_t>(sizeof entry));
  return entry >> 63 != 0;
}

class Windows : public testing::Test {
 protected:
  bool resident(std::uint64_t offset, std::uint64_t now = NOW) {
    return windows_.resident(source_, offset, now);
  }

  test::Image image_{PIECE + 4 * WINDOW};
  // By pointer: a fixture's destructor must not throw, KJ's fds' may.
  const std::shared_ptr<RawFile> file_ = std::make_shared<RawFile>(openFile(image_.path()), image_.bytes());
  const PageSource& source_ = *file_;
  ResidentWindows windows_;
};

TEST_F(Windows, TheFirstFaultInAWindowIsReadTheOthersAreNot) {
  EXPECT_FALSE(resident(WINDOW));
  EXPECT_TRUE(resident(WINDOW + 5 * PAGE));
  EXPECT_TRUE(resident(WINDOW + 15 * PAGE));
  EXPECT_FALSE(resident(2 * WINDOW)) << "another window";
}

TEST_F(Windows, InPlaceAreTheBytesOfTheFile) {
  resident(0);
  ASSERT_TRUE(resident(3 * PAGE));
  const Staged staged = stagedAt(source_.view(3 * PAGE), PAGE);
  ASSERT_EQ(staged.kind, Staged::Kind::bytes);
  EXPECT_EQ(std::memcmp(staged.data, image_.data() + 3 * PAGE, PAGE), 0);
  image_.zero(4 * PAGE, PAGE);
  EXPECT_EQ(stagedAt(source_.view(4 * PAGE), PAGE).kind, Staged::Kind::zero);
}

TEST_F(Windows, ATruncatedFileIsLostNotDeadly) {
  installBusGuard();
  resident(WINDOW);
  ASSERT_TRUE(resident(WINDOW));
  image_.truncate(WINDOW);
  EXPECT_EQ(stagedAt(source_.view(WINDOW), PAGE).kind, Staged::Kind::lost);
}

TEST_F(Windows, AgedKnowledgeIsLookedUpAnew) {
  resident(0);
  ASSERT_TRUE(resident(0));
  EXPECT_FALSE(resident(0, NOW + ResidentWindows::BELIEVED + 1));
  EXPECT_TRUE(resident(0, NOW + ResidentWindows::BELIEVED + 2));
}

TEST_F(Windows, WhatIsNoWholeWindowIsRead) {
  const RawFile ragged(openFile(image_.path()), WINDOW + PAGE);
  windows_.resident(ragged, WINDOW, NOW);
  EXPECT_FALSE(windows_.resident(ragged, WINDOW, NOW));
}

// In the same place, as every window is where there is one.
TEST_F(Windows, SourcesAreToldApart) {
  ResidentWindows one(1);
  const RawFile other(openFile(image_.path()), image_.bytes());
  one.resident(source_, 0, NOW);
  ASSERT_TRUE(one.resident(source_, 0, NOW));
  EXPECT_FALSE(one.resident(other, 0, NOW));
  one.release(other, 0);
  EXPECT_TRUE(one.resident(source_, 0, NOW));
  one.forget(other);
  EXPECT_TRUE(one.resident(source_, 0, NOW));
}

// A window that the page cache has only in part must never be used: its other pages would wait for the disk.
TEST_F(Windows, APartlyCachedWindowIsRead) {
  const std::string path = image_.directory() + "/partly-cached";
  const kj::AutoCloseFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(pwrite(file.get(), image_.data(), 2 * WINDOW, 0), static_cast<ssize_t>(2 * WINDOW));
  ASSERT_EQ(fdatasync(file.get()), 0);
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);  // switches read-ahead off
  char byte;
  ASSERT_EQ(pread(file.get(), &byte, 1, 8 * PAGE), 1);
  const iovec to{&byte, 1};
  if (preadv2(file.get(), &to, 1, 9 * PAGE, RWF_NOWAIT) > 0)
    GTEST_SKIP() << "the file system of " << path << " keeps files in memory: set TMPDIR to one on a disk";
  RawFile source(openFile(path), 2 * WINDOW);
  const void* page = stagedAt(source.view(8 * PAGE), PAGE).data;
  source.release(0, 2 * WINDOW);
  for (int fault = 0; fault < 4; fault++) EXPECT_FALSE(windows_.resident(source, 8 * PAGE, NOW));
  EXPECT_FALSE(isMapped(page)) << "the look has mapped what nobody lets go of";
}

TEST_F(Windows, WhatIsReleasedIsUnmapped) {
  ResidentWindows one(1);
  one.resident(source_, WINDOW, NOW);
  ASSERT_TRUE(one.resident(source_, WINDOW, NOW));
  const void* page = stagedAt(source_.view(WINDOW), PAGE).data;
  ASSERT_TRUE(isMapped(page));
  one.release(source_, 2 * WINDOW);
  EXPECT_TRUE(isMapped(page)) << "another was meant";
  one.release(source_, WINDOW + PAGE);
  EXPECT_FALSE(isMapped(page));
  EXPECT_FALSE(one.resident(source_, WINDOW, NOW));
}

// Windows that are not used again go as well.
TEST_F(Windows, AgedOnesAreUnmapped) {
  resident(0);
  ASSERT_TRUE(resident(0));
  const void* page = stagedAt(source_.view(0), PAGE).data;
  windows_.age(NOW + ResidentWindows::BELIEVED);
  EXPECT_TRUE(isMapped(page));
  windows_.age(NOW + 2 * ResidentWindows::BELIEVED);
  EXPECT_FALSE(isMapped(page));
}

// The kernel may have mapped more than the window, up to its piece.
TEST_F(Windows, APieceIsUnmappedWithTheLastOfItsWindows) {
  for (const std::uint64_t window : {WINDOW, 3 * WINDOW}) {
    resident(window);
    ASSERT_TRUE(resident(window));
  }
  const void* between = stagedAt(source_.view(2 * WINDOW), PAGE).data;
  windows_.release(source_, WINDOW);
  EXPECT_TRUE(isMapped(between));
  EXPECT_TRUE(resident(3 * WINDOW));
  windows_.release(source_, 3 * WINDOW);
  EXPECT_FALSE(isMapped(between));
}

// The mappings of a shard stay bounded, whatever the size of the memory.
TEST_F(Windows, WhereNoneFitsItIsReadUntilAnotherGoes) {
  ResidentWindows one(1);
  one.resident(source_, 0, NOW);
  ASSERT_TRUE(one.resident(source_, 0, NOW));
  for (int fault = 0; fault < 4; fault++) EXPECT_FALSE(one.resident(source_, PIECE, NOW));
  one.release(source_, 0);
  one.resident(source_, PIECE, NOW);
  EXPECT_TRUE(one.resident(source_, PIECE, NOW));
}

TEST_F(Windows, WhatHasAgedGoesForAnother) {
  ResidentWindows one(1);
  one.resident(source_, 0, NOW);
  ASSERT_TRUE(one.resident(source_, 0, NOW));
  const void* page = stagedAt(source_.view(0), PAGE).data;
  const std::uint64_t later = NOW + ResidentWindows::BELIEVED + 1;
  one.resident(source_, PIECE, later);
  EXPECT_TRUE(one.resident(source_, PIECE, later));
  EXPECT_FALSE(isMapped(page));
}

TEST_F(Windows, AForgottenSourceIsNotBelieved) {
  resident(0);
  ASSERT_TRUE(resident(0));
  windows_.forget(source_);
  EXPECT_FALSE(resident(0));
}

}  // namespace
}  // namespace faultline::shard
