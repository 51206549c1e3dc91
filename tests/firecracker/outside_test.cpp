// Memory that a target registered and did not name: a fault there is answered with an error, whatever else is
// going on, and costs no other page anything.

#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <optional>
#include <thread>

#include "client/sigbus.h"
#include "tests/recovery/recovery_test.h"
#include "tests/support/raw_vmm.h"
#include "uffd/uffd.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t MIB = 1 << 20;

// Names the first half of an aligned 2 MiB of what it has registered.
class Outside : public testing::Test {
 protected:
  explicit Outside(std::uint64_t features = UFFD_FEATURE_EVENT_REMOVE,
                   std::uint64_t mode = UFFDIO_REGISTER_MODE_MISSING)
      : vmm_(std::make_unique<RawVmm>(std::vector<std::uint64_t>{4 * MIB}, SMALL, features, mode)) {
    target::installSigbusHandler();
    vmm_->connect(server_.socket());
    vmm_->send("[{\"base_host_virt_addr\":" + std::to_string(reinterpret_cast<std::uint64_t>(named_)) +
                   ",\"size\":" + std::to_string(MIB) + ",\"offset\":0,\"page_size\":4096}]",
               {vmm_->uffd()});
  }

  // Touches a byte in a thread of its own.
  std::thread touch(volatile unsigned char* at, std::optional<bool>& sigbus) {
    return std::thread([at, &sigbus] {
      auto work = [at] { (void)*at; };
      const auto error = target::guarded(work);
      sigbus = error.has_value();
    });
  }
  unsigned pending() const {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(vmm_->uffd()));
    unsigned count = 0;
    for (std::string key; info >> key;)
      if (key == "pending:") info >> count;
    return count;
  }
  void expectImage(std::uint64_t page) {
    std::optional<bool> sigbus;
    touch(named_ + page * SMALL, sigbus).join();
    ASSERT_EQ(sigbus, false) << page;
    EXPECT_EQ(named_[page * SMALL], image_.at(page * SMALL)) << page;
  }

  Image image_{4 * MIB};
  Server server_{image_};
  const std::unique_ptr<RawVmm> vmm_;
  volatile unsigned char* const named_ = reinterpret_cast<unsigned char*>(
      (reinterpret_cast<std::uint64_t>(vmm_->at(0)) + 2 * MIB - 1) / (2 * MIB) * (2 * MIB));
  volatile unsigned char* const outside_ = named_ + MIB;
};

TEST_F(Outside, TwoThreadsAtOnePageCostNoOtherPageAnything) {
  auto restore = server_.restore();
  server_.wait(restore.pauseRequest().send());
  std::optional<bool> first, second;
  std::thread one = touch(outside_, first), two = touch(outside_, second);
  await([&] { return pending() == 2; });
  server_.wait(restore.resumeRequest().send());
  one.join();
  two.join();
  EXPECT_EQ(first, true);
  EXPECT_EQ(second, true);
  for (std::uint64_t page = 0; page < MIB / SMALL; page++) expectImage(page);
}

TEST_F(Outside, AThreadIsAnsweredAlsoWhileARemovalIsUnderWay) {
  server_.restore();
  const int reached = eventfd(0, EFD_CLOEXEC), resume = eventfd(0, EFD_CLOEXEC);
  auto request = coordinatorHooks(server_).armRequest();
  request.setPoint("gateClosed");
  request.setAction(rpc::Action::PARK);
  request.setPage(failpoints::ANY_PAGE);
  request.setReached(rpc::makeFdFrom(reached));
  request.setResume(rpc::makeFdFrom(resume));
  auto barrier = server_.wait(request.send()).getBarrier();
  std::optional<bool> known, unknown;
  std::thread one = touch(named_, known);
  std::uint64_t value = 0;
  ASSERT_EQ(read(reached, &value, sizeof value), static_cast<ssize_t>(sizeof value));
  std::thread two = touch(outside_, unknown);
  std::thread giver([&] { madvise(const_cast<unsigned char*>(named_) + SMALL, SMALL, MADV_DONTNEED); });
  await([&] { return pending() == 2 && uffd::eventInFlight(vmm_->uffd()); });
  value = 1;
  ASSERT_EQ(write(resume, &value, sizeof value), static_cast<ssize_t>(sizeof value));
  two.join();
  EXPECT_EQ(unknown, true);
  one.join();
  giver.join();
  EXPECT_EQ(known, false);
  EXPECT_EQ(named_[SMALL], 0);
  expectImage(2);
  close(reached);
  close(resume);
}

class OutsideTracked : public Outside {
 protected:
  OutsideTracked()
      : Outside(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_PAGEFAULT_FLAG_WP,
                UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP) {}
};

// The page is there, and its write protection is all that the thread waits for.
TEST_F(OutsideTracked, AWriteGoesOn) {
  server_.restore();
  const auto at = reinterpret_cast<std::uint64_t>(outside_);
  uffdio_zeropage zero{};
  zero.range = {at, SMALL};
  ASSERT_EQ(ioctl(vmm_->uffd(), UFFDIO_ZEROPAGE, &zero), 0);
  uffdio_writeprotect protect{};
  protect.range = {at, SMALL};
  protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
  ASSERT_EQ(ioctl(vmm_->uffd(), UFFDIO_WRITEPROTECT, &protect), 0);
  std::thread writer([&] { *outside_ = 7; });
  writer.join();
  EXPECT_EQ(*outside_, 7);
  expectImage(0);
}

}  // namespace
}  // namespace faultline::test
