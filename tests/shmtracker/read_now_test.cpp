// A target that makes its userfaultfd blocking makes no reader wait in read().

#include "shmtracker/read_now.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

namespace faultline::shm {
namespace {

class ReadNow : public testing::TestWithParam<ssize_t (*)(int, void*, std::size_t)> {
 protected:
  void SetUp() override {
    if (uffd_ < 0) GTEST_SKIP() << "userfaultfd is not permitted here";
    uffdio_api api{};
    api.api = UFFD_API;
    ASSERT_EQ(ioctl(uffd_, UFFDIO_API, &api), 0);
  }
  void TearDown() override { close(uffd_); }
  ssize_t read() { return GetParam()(uffd_, &message_, sizeof message_); }
  void makeBlocking() const { fcntl(uffd_, F_SETFL, fcntl(uffd_, F_GETFL) & ~O_NONBLOCK); }

  const int uffd_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));  // blocking
  uffd_msg message_{};
};
INSTANTIATE_TEST_SUITE_P(, ReadNow, testing::Values(readNow, readBounded),
                         [](const auto& info) { return info.index == 0 ? "NoWait" : "Bounded"; });

TEST_P(ReadNow, SaysThatNothingIsPendingOnABlockingOne) {
  EXPECT_EQ(read(), -1);
  EXPECT_EQ(errno, EAGAIN);
}

// A thread of the target clears the flag all the time.
TEST_P(ReadNow, ComesBackHoweverOftenItIsMadeBlocking) {
  std::atomic<bool> over{false};
  std::thread target([&] {
    while (!over) makeBlocking();
  });
  for (int i = 0; i < 300; i++) EXPECT_EQ(read(), -1);
  over = true;
  target.join();
}

TEST_P(ReadNow, BringsWhatIsPending) {
  void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uint64_t>(memory), 4096};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(ioctl(uffd_, UFFDIO_REGISTER, &range), 0);
  std::thread toucher([&] { (void)*static_cast<volatile char*>(memory); });
  ssize_t got;
  while ((got = read()) < 0) ASSERT_EQ(errno, EAGAIN);
  EXPECT_EQ(got, static_cast<ssize_t>(sizeof message_));
  EXPECT_EQ(message_.event, UFFD_EVENT_PAGEFAULT);
  ioctl(uffd_, UFFDIO_UNREGISTER, &range.range);
  ioctl(uffd_, UFFDIO_WAKE, &range.range);
  toucher.join();
  munmap(memory, 4096);
}

}  // namespace
}  // namespace faultline::shm
