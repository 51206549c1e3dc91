// The recording itself: order, bound, and recordings that a successor takes over or refuses.

#include "coordinator/touch_recorder.h"

#include <gtest/gtest.h>
#include <kj/exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>

namespace faultline::coordinator {
namespace {

std::vector<shm::PageIndex> listOf(const TouchRecorder& recorder) {
  std::vector<shm::PageIndex> pages;
  for (std::uint64_t i = 0; i < recorder.recorded(); i++) pages.push_back(recorder.at(i));
  return pages;
}

using Pages = std::vector<shm::PageIndex>;

TEST(TouchRecorder, KeepsTheOrderAndEachPageOnce) {
  TouchRecorder recorder(1000);
  for (const shm::PageIndex page : {999, 3, 64, 3, 63, 999, 0}) recorder.touched(page);
  EXPECT_EQ(listOf(recorder), (Pages{999, 3, 64, 63, 0}));
  EXPECT_EQ(recorder.lost(), 0u);
}

TEST(TouchRecorder, IsBoundedAndCountsWhatHasNoRoom) {
  TouchRecorder recorder(TouchRecorder::MAX_TOUCHES + 10);
  for (std::uint64_t page = 0; page < TouchRecorder::MAX_TOUCHES + 10; page++) {
    recorder.touched(page);
    recorder.touched(page);
  }
  EXPECT_EQ(recorder.recorded(), TouchRecorder::MAX_TOUCHES);
  EXPECT_EQ(recorder.at(TouchRecorder::MAX_TOUCHES - 1), TouchRecorder::MAX_TOUCHES - 1);
  EXPECT_EQ(recorder.lost(), 10u);
}

TEST(TouchRecorder, ASuccessorGoesOn) {
  TouchRecorder first(1000);
  first.touched(7);
  first.touched(5);
  TouchRecorder second(first.fd(), 1000);
  second.touched(5);
  second.touched(6);
  EXPECT_EQ(listOf(second), (Pages{7, 5, 6}));
}

class RottenRecording : public testing::Test {
 protected:
  RottenRecording() {
    recorder_->touched(7);
    recorder_->touched(8);
  }
  // `words`: of 32 bits, from the start of the memory.
  void write(std::size_t word, std::uint32_t value) {
    ASSERT_EQ(pwrite(recorder_->fd(), &value, sizeof value, static_cast<off_t>(word * 4)), 4);
  }
  void expectRefused() { EXPECT_THROW(TouchRecorder(recorder_->fd(), 1000), kj::Exception); }

  const std::unique_ptr<TouchRecorder> recorder_ = std::make_unique<TouchRecorder>(1000);
};

TEST_F(RottenRecording, IsAcceptedWhileItIsSound) {
  EXPECT_NO_THROW(TouchRecorder(recorder_->fd(), 1000));
}

TEST_F(RottenRecording, OfAnotherSizeIsRefused) {
  EXPECT_THROW(TouchRecorder(recorder_->fd(), 1001), kj::Exception);
}

TEST_F(RottenRecording, WithoutItsMagicIsRefused) {
  write(0, 1);
  expectRefused();
}

TEST_F(RottenRecording, WithMoreThanItHoldsIsRefused) {
  write(2, 1001);
  expectRefused();
}

TEST_F(RottenRecording, WithAPageThatIsNotThereIsRefused) {
  write(8, 1000);
  expectRefused();
}

TEST_F(RottenRecording, WithAPageTwiceIsRefused) {
  write(9, 7);
  expectRefused();
}

TEST(TouchRecorder, MemoryThatCouldShrinkIsRefused) {
  const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(fd, 32 + 4 * 1000), 0);
  EXPECT_THROW(TouchRecorder(fd, 1000), kj::Exception);
  close(fd);
}

}  // namespace
}  // namespace faultline::coordinator
