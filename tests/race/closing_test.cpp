// A target that is closed while its process lives on: its addresses are free for another only when no server can put a page
// there any more, since the kernel lets any userfaultfd of a process fill what is registered with any other.

#include <signal.h>
#include <sys/mman.h>

#include <cerrno>
#include <chrono>
#include <future>

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

class Closing : public OneTarget {
 protected:
  std::future<int> closeLater() {
    return std::async(std::launch::async, [this] { return target_->close(); });
  }
  void populate(std::uint64_t page) {
    auto request = restore_.prefaultRequest();
    auto range = request.initRanges(1)[0];
    range.setFirst(page);
    range.setCount(1);
    server_->wait(request.send());
  }
  // Whether something is mapped at the address of page 0, from where it was as the target was open.
  bool taken(void* address) const {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void* found = mmap(address, pageSize(), PROT_NONE, flags, -1, 0);
    if (found == MAP_FAILED) return errno == EEXIST;
    munmap(found, pageSize());
    return false;
  }
};
BOTH_PAGE_SIZES(Closing);

// Interleaving: a population is about to copy a page as the target is closed. The copy ends before the call does.
TEST_P(Closing, EndsWhenNoCopyIsUnderWay) {
  serve();
  void* const address = const_cast<unsigned char*>(target_->address(0));
  shm::Segment segment = server_->segment();
  auto barrier = server_->barrier(1, rpc::FaultPoint::BEFORE_COPY);
  populate(1);
  server_->wait(barrier.waitHeldRequest().send());
  auto closed = closeLater();
  await([&] { return segment.lock().closed(); });
  EXPECT_EQ(closed.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  EXPECT_TRUE(taken(address));
  server_->wait(barrier.releaseRequest().send());
  EXPECT_EQ(closed.get(), 0);
  EXPECT_FALSE(taken(address));
}

// No interleaving: the server is told, and does not come upon it a second later.
TEST_P(Closing, EndsTheRestore) {
  serve();
  EXPECT_EQ(target_->close(), 0);
  auto end = server_->wait(restore_.waitEndedRequest().send());
  EXPECT_EQ(end.getReason(), rpc::EndReason::TARGET_GONE);
}

// No interleaving: a server that cannot let go just now keeps the addresses from being used, and not the caller.
TEST_P(Closing, KeepsTheAddressesOfAServerThatDoesNotLetGo) {
  serve();
  void* const address = const_cast<unsigned char*>(target_->address(0));
  const pid_t coordinator = server_->coordinatorPid();
  ASSERT_EQ(::kill(coordinator, SIGSTOP), 0);
  EXPECT_EQ(target_->close(), -ETIMEDOUT);
  ASSERT_EQ(::kill(coordinator, SIGCONT), 0);
  EXPECT_TRUE(taken(address));
  server_->wait(restore_.waitEndedRequest().send());
  EXPECT_TRUE(taken(address));
}

}  // namespace
}  // namespace faultline::test
