// RawFile: bytes that it gives without waiting, and bytes that it gives to callers that wait.

#include "shard/source/raw_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <vector>

#include "shard/source/bus_guard.h"
#include "shmtracker/pages.h"
#include "tests/support/image.h"

namespace faultline::shard {
namespace {

constexpr std::uint64_t PAGE = shm::SMALL_PAGE, PIECE = PageSource::PIECE;

class File : public testing::Test {
 protected:
  Staged read(std::uint64_t offset) { return source_->read(offset, PAGE, buffer_.data()); }
  Staged tryRead(std::uint64_t offset) { return source_->tryRead(offset, PAGE, buffer_.data()); }
  void expectImage(const Staged& staged, std::uint64_t offset, std::size_t length = PAGE) {
    ASSERT_EQ(staged.kind, Staged::Kind::bytes);
    EXPECT_EQ(std::memcmp(staged.data, image_.data() + offset, length), 0);
  }

  test::Image image_{4 * PIECE};
  std::vector<char> buffer_ = std::vector<char>(PAGE);
  const std::shared_ptr<RawFile> source_ = std::make_shared<RawFile>(
      kj::AutoCloseFd(open(image_.path().c_str(), O_RDONLY | O_CLOEXEC)), image_.bytes());
};

TEST_F(File, ThatIsInMemoryIsReadWithoutWaiting) {
  expectImage(tryRead(3 * PAGE), 3 * PAGE);
  image_.zero(4 * PAGE, PAGE);
  EXPECT_EQ(tryRead(4 * PAGE).kind, Staged::Kind::zero);
}

TEST_F(File, ThatIsColdIsNotWaitedFor) {
  if (!image_.makeCold()) GTEST_SKIP() << "the file system of " << image_.path() << " keeps files in memory";
  // The kernel begins to read ahead, and a fast disk can be done before it looks again (mm/filemap.c, filemap_get_pages).
  const Staged staged = tryRead(3 * PAGE);
  if (staged.kind != Staged::Kind::cold) expectImage(staged, 3 * PAGE);
  EXPECT_EQ(source_->tryView(PIECE, PIECE).kind, Staged::Kind::cold);
}

TEST_F(File, WhoWaitsGetsWhatIsNotInThePageCache) {
  if (!image_.makeCold()) GTEST_SKIP() << "the file system of " << image_.path() << " keeps files in memory";
  const Staged staged = read(3 * PAGE);
  EXPECT_EQ(staged.data, buffer_.data());
  expectImage(staged, 3 * PAGE);
  expectImage(source_->readInPlace(PIECE, PIECE), PIECE, PIECE);
}

TEST_F(File, IsUsedInPlaceOnceItIsResident) {
  installBusGuard();
  expectImage(source_->readInPlace(PIECE, PIECE), PIECE, PIECE);
  expectImage(source_->tryView(PIECE, PIECE), PIECE, PIECE);
  source_->release(PIECE, PIECE);
}

TEST_F(File, ZerosAndHolesAreZero) {
  image_.zero(0, PAGE);
  image_.hole(PAGE, PAGE);
  EXPECT_EQ(read(0).kind, Staged::Kind::zero);
  EXPECT_EQ(read(PAGE).kind, Staged::Kind::zero);
}

// Looking up holes may wait, so those who must not wait know only what others have looked up.
TEST_F(File, WhatWasFoundToBeAHoleIsZeroForGood) {
  image_.hole(PIECE, 2 * PIECE);
  EXPECT_FALSE(source_->zeroForGood(PIECE, PAGE)) << "nobody has looked";
  EXPECT_EQ(read(PIECE).kind, Staged::Kind::zero);
  EXPECT_TRUE(source_->zeroForGood(PIECE, 2 * PIECE)) << "one look tells of the whole hole";
  EXPECT_FALSE(source_->zeroForGood(2 * PIECE, 2 * PIECE)) << "half of it is data";
  EXPECT_FALSE(source_->zeroForGood(0, PAGE));
  EXPECT_EQ(tryRead(2 * PIECE).kind, Staged::Kind::zero);
  EXPECT_EQ(source_->tryView(PIECE, PIECE).kind, Staged::Kind::zero);
}

TEST_F(File, AHoleInAPieceWithDataIsNotZeroForGood) {
  image_.hole(PIECE, PIECE / 2);
  EXPECT_EQ(read(PIECE).kind, Staged::Kind::zero);
  EXPECT_FALSE(source_->zeroForGood(PIECE, PAGE));
  expectImage(read(PIECE + PIECE / 2), PIECE + PIECE / 2);
}

TEST_F(File, ThatWasTruncatedIsLostWithoutAnError) {
  installBusGuard();
  image_.truncate(4 * PAGE + 100);
  for (const std::uint64_t page : {4, 5}) {
    const Staged staged = read(page * PAGE);
    EXPECT_EQ(staged.kind, Staged::Kind::lost) << page;
    EXPECT_EQ(staged.error, 0) << page;
  }
  EXPECT_EQ(source_->readInPlace(PIECE, PIECE).kind, Staged::Kind::lost);
  EXPECT_FALSE(source_->zeroForGood(PIECE, PIECE)) << "an end is no hole";
}

// tmpfs has no RWF_NOWAIT. A part that is not in memory there is a hole, or in swap.
TEST(FileInMemory, IsServedWithoutWaiting) {
  test::Image image(2 * PIECE);
  const int memory = memfd_create("source", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(memory, static_cast<off_t>(2 * PIECE)), 0);
  ASSERT_EQ(pwrite(memory, image.data(), PIECE, 0), static_cast<ssize_t>(PIECE));
  const auto source = std::make_shared<RawFile>(kj::AutoCloseFd(memory), 2 * PIECE);
  std::vector<char> buffer(PAGE);
  const Staged staged = source->tryRead(PAGE, PAGE, buffer.data());
  ASSERT_EQ(staged.kind, Staged::Kind::bytes);
  EXPECT_EQ(std::memcmp(staged.data, image.data() + PAGE, PAGE), 0);
  EXPECT_EQ(source->tryRead(PIECE, PAGE, buffer.data()).kind, Staged::Kind::zero);
  const Staged all = source->tryView(0, PIECE);
  ASSERT_EQ(all.kind, Staged::Kind::bytes);
  EXPECT_EQ(std::memcmp(all.data, image.data(), PIECE), 0);
  EXPECT_FALSE(source->plainRead(0, PAGE).has_value()) << "the ring would read it by few threads";
}

}  // namespace
}  // namespace faultline::shard
