// Reads of the source that may wait for the disk, as they are made where there is no io_uring.

#include "shard/source.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "shmtracker/pages.h"
#include "tests/support/image.h"

namespace faultline::shard {
namespace {

constexpr std::uint64_t PAGE = shm::SMALL_PAGE;

class WaitingRead : public testing::Test {
 protected:
  Staged read(std::uint64_t offset) { return source_->stageWaiting(offset, PAGE, buffer_.data()); }

  test::Image image_{8 * PAGE};
  std::vector<char> buffer_ = std::vector<char>(PAGE);
  // By pointer: a fixture's destructor must not throw, KJ's fds' may.
  const std::unique_ptr<Source> source_ = std::make_unique<Source>(
      kj::AutoCloseFd(open(image_.path().c_str(), O_RDONLY | O_CLOEXEC)), image_.bytes());
};

TEST_F(WaitingRead, BringsWhatIsNotInThePageCache) {
  if (!image_.makeCold()) GTEST_SKIP() << "the file system of " << image_.path() << " keeps files in memory";
  const Staged staged = read(3 * PAGE);
  ASSERT_EQ(staged.kind, Staged::Kind::bytes);
  EXPECT_EQ(staged.data, buffer_.data());
  EXPECT_EQ(std::memcmp(staged.data, image_.data() + 3 * PAGE, PAGE), 0);
}

TEST_F(WaitingRead, ZerosAndHolesAreZero) {
  image_.zero(0, PAGE);
  image_.hole(PAGE, PAGE);
  EXPECT_EQ(read(0).kind, Staged::Kind::zero);
  EXPECT_EQ(read(PAGE).kind, Staged::Kind::zero);
}

TEST_F(WaitingRead, ATruncatedFileIsLostWithoutAnError) {
  image_.truncate(4 * PAGE + 100);
  for (const std::uint64_t page : {4, 5}) {
    const Staged staged = read(page * PAGE);
    EXPECT_EQ(staged.kind, Staged::Kind::lost) << page;
    EXPECT_EQ(staged.error, 0) << page;
  }
}

}  // namespace
}  // namespace faultline::shard
