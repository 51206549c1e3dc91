// A real guest's page faults: vCPUs that compute on a snapshot while a device takes memory back. Its own
// sums, and every byte of its memory, decide.

#include <gtest/gtest.h>
#include <signal.h>

#include "tests/kvm/restored_guest.h"
#include "tests/support/target.h"

namespace faultline::kvm {
namespace {

constexpr std::uint64_t SMALL = 4096, HUGE = 2u << 20;

class Guest : public testing::TestWithParam<std::tuple<unsigned, std::uint64_t>> {
 protected:
  void SetUp() override {
    const std::string why = whyNoKvm();
    if (!why.empty()) GTEST_SKIP() << why;
    if (pageSize() == HUGE && !test::hugePagesAvailable(33))
      GTEST_SKIP() << "no 33 free huge pages; echo 128 > /proc/sys/vm/nr_hugepages";
  }

  static unsigned vcpus() { return std::get<0>(GetParam()); }
  static std::uint64_t pageSize() { return std::get<1>(GetParam()); }

  static void expectAllRight(RestoredGuest& guest) {
    for (unsigned vcpu = 0; vcpu < vcpus(); vcpu++)
      EXPECT_EQ(guest.sums()[vcpu], guest.expectedSum(vcpu)) << "vCPU " << vcpu;
    EXPECT_EQ(guest.stalePages(), std::vector<std::uint64_t>{});
    EXPECT_EQ(guest.firstWrongPage(), guest.pages());
  }
};

INSTANTIATE_TEST_SUITE_P(, Guest, testing::Combine(testing::Values(1u, 2u, 4u), testing::Values(SMALL, HUGE)),
                         [](const auto& info) {
                           return std::to_string(std::get<0>(info.param)) + "Vcpus" +
                                  (std::get<1>(info.param) == SMALL ? "Small" : "Huge");
                         });

TEST_P(Guest, ComputesOnItsSnapshotWhileMemoryIsTakenBack) {
  RestoredGuest guest(vcpus(), pageSize());
  guest.start();
  guest.join();
  expectAllRight(guest);
}

TEST_P(Guest, IsServedTheSameWhileItsMemoryIsPopulated) {
  RestoredGuest guest(vcpus(), pageSize(), {.prefault = true});
  guest.start();
  guest.join();
  expectAllRight(guest);
}

TEST_P(Guest, ComputesOnASnapshotOfLayers) {
  RestoredGuest guest(vcpus(), pageSize(), {}, nullptr, 3);
  guest.start();
  guest.join();
  expectAllRight(guest);
}

// A shard first, then the coordinator, between two pages that the device takes back.
TEST_P(Guest, OutlivesTheDeathOfAShardAndOfTheCoordinator) {
  pid_t shard = -1, coordinator = -1;
  RestoredGuest guest(vcpus(), pageSize(), {}, [&](std::uint64_t taken) {
    if (taken == 1) kill(shard, SIGKILL);
    if (taken == 3) kill(coordinator, SIGKILL);
  });
  shard = guest.server().shardPid(0);
  coordinator = guest.server().coordinatorPid();
  guest.start();
  guest.join();
  expectAllRight(guest);
  guest.server().reconnect();
  EXPECT_EQ(guest.server().status().getIncarnation(), 2u);
  EXPECT_NE(guest.server().shardPid(0), shard);
}

// A vCPU waits for a page whose snapshot bytes a worker has in hand; the device takes the page. The vCPU gets
// zeros.
TEST_P(Guest, ReadsZerosInAPageThatIsTakenWhileItWaitsForIt) {
  RestoredGuest guest(vcpus(), pageSize());
  guest.server().restore();
  const std::uint64_t page = 10;
  ASSERT_EQ(useOf(page), Use::readOnly);
  auto barrier = guest.server().barrier(guest.serverPage(page), rpc::FaultPoint::BEFORE_READ_LOCK);
  guest.start();
  guest.server().wait(barrier.waitHeldRequest().send());
  guest.takeAway(page);
  guest.server().wait(barrier.releaseRequest().send());
  guest.join();
  expectAllRight(guest);
}

}  // namespace
}  // namespace faultline::kvm
