#include "shmtracker/segment.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cstring>
#include <fstream>
#include <new>
#include <thread>

#include "shmtracker/error.h"
#include "tests/support/child_process.h"
#include "tests/support/exclusive.h"

namespace faultline::shm {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

SegmentSpec spec() {
  return {.restoreId = 7,
          .name = "vm",
          .sourceName = "/snapshots/vm.mem",
          .regions = {{1 << 20, 64 * SMALL_PAGE, 0, SMALL_PAGE}, {4 << 20, HUGE_PAGE, HUGE_PAGE, HUGE_PAGE}},
          .sourceBytes = 2 * HUGE_PAGE,
          .uffdFeatures = 8,
          .workersPerShard = 2,
          .shards = 3};
}

TEST(Segment, AnotherProcessSeesWhatItsMakerMade) {
  Segment segment = Segment::create(spec());
  test::ChildProcess other([&] {
    Segment mine = Segment::attach(segment.fd());
    const bool same = mine.facts().restoreId == 7 && mine.name() == "vm" &&
                      mine.sourceName() == "/snapshots/vm.mem" &&
                      mine.regions().regions() == segment.regions().regions() && mine.activeShards() == 3 &&
                      mine.ownerOf(0) == segment.ownerOf(0);
    _exit(same ? 0 : 1);
  });
  EXPECT_EQ(other.join(), 0);
}

TEST(Segment, RegionsThatCannotBeServedAreRefused) {
  auto bad = spec();
  bad.regions[0].size = 0;
  EXPECT_THAT([&] { Segment::create(bad); }, ThrowsMessage<SegmentError>(HasSubstr("size is 0")));
  auto shards = spec();
  shards.shards = 10'000;
  EXPECT_THAT([&] { Segment::create(shards); }, ThrowsMessage<SegmentError>(HasSubstr("not 10000")));
}

class Damaged : public testing::Test {
 protected:
  Segment segment_ = Segment::create(spec());
  Immutable& facts() { return segment_.header().immutable; }
  auto attaching() {
    return [this] { Segment::attach(segment_.fd()); };
  }
};

TEST_F(Damaged, AnotherVersionIsRefusedWithBothValues) {
  facts().version = 99;
  EXPECT_THAT(attaching(),
              ThrowsMessage<SegmentError>(
                  AllOf(HasSubstr("version is 99"), HasSubstr("expects " + std::to_string(LAYOUT_VERSION)))));
}

TEST_F(Damaged, AnotherLayoutIsRefusedWithBothValues) {
  facts().layoutHash = 5;
  EXPECT_THAT(attaching(),
              ThrowsMessage<SegmentError>(
                  AllOf(HasSubstr("hash is 5"), HasSubstr("expects " + std::to_string(layoutHash())))));
}

TEST_F(Damaged, AChecksumThatDoesNotFitIsRefused) {
  facts().pageCount++;
  EXPECT_THAT(attaching(), ThrowsMessage<SegmentError>(HasSubstr("checksum")));
}

TEST_F(Damaged, NonsenseUnderARightChecksumIsRefused) {
  facts().workersPerShard = 1000;
  segment_.header().immutableCrc = crc32c(&facts(), sizeof(Immutable));
  EXPECT_THAT(attaching(), ThrowsMessage<SegmentError>(HasSubstr("make no sense")));
}

// Every byte of what cannot change: attaching refuses, or sees the same as before.
TEST_F(Damaged, AnyByteOfHeaderAndRegionsIsNoticed) {
  const Layout layout = Layout::of(2, segment_.extents().count(), segment_.facts().pageCount, 2);
  auto* start = reinterpret_cast<unsigned char*>(&segment_.header());
  auto flip = [&](std::size_t offset) {
    start[offset] ^= 0x5a;
    EXPECT_THROW(Segment::attach(segment_.fd()), SegmentError) << offset;
    start[offset] ^= 0x5a;
  };
  for (std::size_t i = 0; i < sizeof(Immutable) + 4; i++) flip(i);
  for (std::size_t i = 0; i < 2 * sizeof(RegionEntry); i++) flip(layout.regions + i);
  EXPECT_NO_THROW(Segment::attach(segment_.fd()));
}

TEST(Segment, WhatIsNoSealedMemfdIsRefused) {
  const int loose = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_THAT([&] { Segment::attach(loose); }, ThrowsMessage<SegmentError>(HasSubstr("0 bytes")));
  ASSERT_EQ(ftruncate(loose, 1 << 20), 0);
  EXPECT_THAT([&] { Segment::attach(loose); }, ThrowsMessage<SegmentError>(HasSubstr("sealed")));
  close(loose);
}

// The process lacks something, the segment is sound.
TEST(Segment, ThatThereIsNoMemoryToMapItIsNoFaultOfTheSegment) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer reserves address space without end";
#endif
  const Segment segment = Segment::create(spec());
  test::ChildProcess poor([&segment] {
    const rlimit none{0, RLIM_INFINITY};
    if (setrlimit(RLIMIT_AS, &none) != 0) _exit(2);
    try {
      Segment::attach(segment.fd());
    } catch (const std::bad_alloc&) {
      _exit(0);
    } catch (const SegmentError&) {
      _exit(1);
    }
    _exit(3);
  });
  EXPECT_EQ(poor.join(), 0);
}

TEST(Segment, TooLittleLockableMemoryIsNamed) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer makes mlock() do nothing";
#endif
  test::ChildProcess poor([] {
    const rlimit limit{4096, 4096};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || (geteuid() == 0 && setuid(65534) != 0)) _exit(2);
    try {
      Segment::create(spec());
    } catch (const SegmentError& error) {
      const std::string text = error.what();
      _exit(text.find("RLIMIT_MEMLOCK is 4096") != std::string::npos ? 0 : 1);
    }
    _exit(3);
  });
  EXPECT_EQ(poor.join(), 0);
}

// The sum of /proc/self/smaps' `figure` over what is mapped of the segment named `name`, bytes.
std::uint64_t mapped(const std::string& name, const std::string& figure) {
  std::ifstream maps("/proc/self/smaps");
  std::uint64_t sum = 0;
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:faultline-" + name + " ") != std::string::npos) ours = true;
    if (ours && line.starts_with(figure + ":")) sum += std::stoull(line.substr(figure.size() + 1)) << 10;
    if (line.starts_with("VmFlags:")) ours = false;
  }
  return sum;
}

// The states of 64 GiB's pages are some 12 MiB.
TEST(Segment, IsLockedInSteps) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer makes mlock() do nothing";
#endif
  auto large = spec();
  large.name = "large";
  large.regions = {{1ull << 40, 64ull << 30, 0, SMALL_PAGE}};
  large.sourceBytes = 64ull << 30;
  Segment segment = Segment::create(large);
  struct stat status {};
  ASSERT_EQ(fstat(segment.fd(), &status), 0);
  const std::uint64_t all = segment.facts().segmentBytes;
  EXPECT_GE(static_cast<std::uint64_t>(status.st_blocks) * 512, all) << "all its memory is there";
  EXPECT_LT(mapped("large", "Locked"), all / 2);
  EXPECT_GE(mapped("large", "Locked"), sizeof(uffd_msg) * JOURNAL_MESSAGES);
  unsigned steps = 1;
  while (!segment.lockSome()) steps++;
  EXPECT_GT(steps, 10u);
  EXPECT_GE(mapped("large", "Locked"), all);
}

TEST(Segment, StatesThatWereNeverWrittenAreCountedUnread) {
  auto large = spec();
  large.name = "unread";
  large.regions = {{1ull << 40, 64ull << 30, 0, SMALL_PAGE}};
  large.sourceBytes = 64ull << 30;
  Segment segment = Segment::create(large);
  const std::uint64_t pages = segment.pages().pageCount();
  const PageRange removed[] = {{3, 1}, {pages / 2 + 7, 5000}, {pages - 2, 2}};
  {
    const auto guard = test::exclusive(segment);
    for (const PageRange& range : removed) segment.pages().markRemoved(guard, range);
  }
  const std::uint64_t before = mapped("unread", "Rss");
  const PageCounts all = segment.counts({0, pages});
  EXPECT_EQ(all.removed, 5003u);
  EXPECT_EQ(all.total(), pages);
  EXPECT_EQ(segment.counts({0, 4}).removed, 1u);
  EXPECT_EQ(segment.counts({4, pages / 2 + 7}).removed, 4u) << "up to the middle of what was written";
  EXPECT_EQ(segment.counts({pages / 2 + 5, 3}).missing, 2u);
  EXPECT_EQ(segment.counts({pages - 1, 1}).removed, 1u);
  EXPECT_EQ(segment.counts({pages / 4, 1}).missing, 1u);
  EXPECT_EQ(segment.counts({pages / 4, 0}).total(), 0u);
  EXPECT_LT(mapped("unread", "Rss"), before + (256 << 10)) << "a few pages beside those written at the most";
}

// read(uffd) writes into the segment itself, so a reader that dies right after it has lost nothing.
TEST(Journal, WhatWasReadOutlivesItsReader) {
  const int uffd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (uffd < 0) GTEST_SKIP() << "userfaultfd is not permitted here";
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_REMOVE;
  ASSERT_EQ(ioctl(uffd, UFFDIO_API, &api), 0);
  auto* memory = static_cast<char*>(
      mmap(nullptr, 4 * SMALL_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  uffdio_register reg{};
  reg.range = {reinterpret_cast<std::uint64_t>(memory), 4 * SMALL_PAGE};
  reg.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
  Segment segment = Segment::create(spec());
  EXPECT_TRUE(segment.journal().empty());
  {
    test::Signal read;
    test::ChildProcess reader([&] {
      while (segment.journal().read(uffd).empty()) continue;
      read.send();
      for (;;) pause();
    });
    std::thread giver([&] { madvise(memory, SMALL_PAGE, MADV_DONTNEED); });
    read.wait();
    reader.kill();
    giver.join();
  }
  const uffd_msg& message = segment.journal().all()[0];
  EXPECT_EQ(message.event, UFFD_EVENT_REMOVE);
  EXPECT_EQ(message.arg.remove.start, reg.range.start);
  EXPECT_EQ(message.arg.remove.end, reg.range.start + SMALL_PAGE);
  segment.journal().clear(1);
  EXPECT_TRUE(segment.journal().empty());
  munmap(memory, 4 * SMALL_PAGE);
  close(uffd);
}

}  // namespace
}  // namespace faultline::shm
