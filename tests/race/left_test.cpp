// Memory that leaves the regions of a process that lives on, of which no event tells and for which nothing asks: it is found
// all the same, is waited for by nothing, and a restore that has none left ends.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "tests/race/race_test.h"
#include "tests/support/child_process.h"
#include "uffd/uffd.h"

namespace faultline::test {
namespace {

using testing::HasSubstr;

enum class How { unmapped, mappedOver, moved, unregistered };

void leave(const Target& target, std::uint64_t page, std::uint64_t count, How how) {
  void* const start = const_cast<unsigned char*>(target.address(page));
  const std::uint64_t bytes = count * target.pageSize();
  switch (how) {
    case How::unmapped:
      ASSERT_EQ(munmap(start, bytes), 0);
      break;
    case How::mappedOver:
      ASSERT_NE(mmap(start, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                MAP_FAILED);
      break;
    case How::moved:
      // To a place of the same alignment, far below all that is mapped by itself.
      ASSERT_NE(mremap(start, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                       static_cast<char*>(start) - (std::uint64_t{1} << 44)),
                MAP_FAILED);
      break;
    case How::unregistered:
      ASSERT_EQ(uffd::unregister(target.uffd(), reinterpret_cast<std::uint64_t>(start), bytes), 0);
      break;
  }
}

class Left : public OneTarget {
 protected:
  rpc::RestoreInfo::Reader info() {
    answer_ = std::make_unique<capnp::Response<rpc::Restore::InfoResults>>(
        server_->wait(restore_.infoRequest().send()));
    return answer_->getInfo();
  }
  static void expectEnd(Server& server, rpc::Restore::Client restore) {
    auto end = server.wait(restore.waitEndedRequest().send());
    EXPECT_EQ(end.getReason(), rpc::EndReason::TARGET_GONE);
    EXPECT_THAT(end.getText().cStr(), HasSubstr("has left its regions"));
    EXPECT_EQ(end.getMissing(), 0u);
    await([&] { return server.status().getRestores().size() == 0; });
  }

 private:
  std::unique_ptr<capnp::Response<rpc::Restore::InfoResults>> answer_;
};
BOTH_PAGE_SIZES(Left);

// No page of it is touched, or asked for. What is left is served to its end, and a detach needs no force.
TEST_P(Left, IsFoundThoughNothingAsksForIt) {
  serve();
  std::uint64_t page = 1;
  for (const How how : {How::mappedOver, How::unregistered}) leave(*target_, page++ * 3, 1, how);
  await([&] { return info().getReleased() == page - 1; });
  for (std::uint64_t i = 1; i < page; i++) EXPECT_EQ(stateOf(i * 3), rpc::PageState::RELEASED) << i;
  EXPECT_EQ(info().getMissing(), pages() - (page - 1));
  for (std::uint64_t i = 0; i < pages(); i++)
    ASSERT_TRUE((i % 3 == 0 && i > 0 && i < page * 3) || target_->holdsImage(i)) << i;
  auto completed = server_->wait(restore_.waitCompleteRequest().send());
  EXPECT_EQ(completed.getInfo().getMissing(), 0u);
  server_->wait(restore_.detachRequest().send());
}

// In a process of its own, since in this one something else could come to lie in the hole.
TEST_P(Left, WhereAllOfItHasTheRestoreEnds) {
  for (const How how : {How::unmapped, How::mappedOver, How::moved, How::unregistered}) {
    Server server(image_);
    Signal go;
    const ChildProcess target([&, socket = server.socket()] {
      const Target target(image_, socket, pageSize());
      go.wait();
      leave(target, 0, pages(), how);
      pause();
    });
    auto restore = server.restore();
    go.send();
    expectEnd(server, restore);
    EXPECT_EQ(::kill(target.pid(), 0), 0);
  }
}

// A restore that is complete, and kept for as long as its target lives.
TEST_P(Left, WhereAllOfItHasACompleteRestoreEndsToo) {
  serve({.prefault = true, .keepServing = true});
  server_->wait(restore_.waitCompleteRequest().send());
  leave(*target_, 0, pages(), How::mappedOver);
  expectEnd(*server_, restore_);
}

TEST_P(Left, WhereAllOfItHasAPausedRestoreEndsToo) {
  serve();
  server_->wait(restore_.pauseRequest().send());
  leave(*target_, 0, pages(), How::mappedOver);
  expectEnd(*server_, restore_);
}

// In steps: each region, each shard, and a coordinator that has begun in between.
TEST_P(Left, WhatASuccessorFindsAddsToWhatWasFound) {
  serve({}, 2);
  leave(*target_, 0, pages() / 2, How::unregistered);
  await([&] { return info().getReleased() == pages() / 2; });
  ::kill(server_->coordinatorPid(), SIGKILL);
  server_->reconnect();
  restore_ = server_->restoreNamed(Server::restoreName());
  EXPECT_EQ(info().getReleased(), pages() / 2);
  leave(*target_, pages() / 2, pages() / 2, How::mappedOver);
  expectEnd(*server_, restore_);
}

// Splitting a mapping takes nothing away from it, however often it is looked at.
TEST_P(Left, NothingHasWhereAMappingIsSplit) {
  serve();
  for (std::uint64_t page = 0; page + 1 < pages(); page += 2)
    ASSERT_EQ(madvise(const_cast<unsigned char*>(target_->address(page)), pageSize(), MADV_DONTDUMP), 0);
  leave(*target_, pages() - 1, 1, How::mappedOver);
  await([&] { return info().getReleased() > 0; });
  EXPECT_EQ(info().getReleased(), 1u);
  EXPECT_EQ(info().getMissing(), pages() - 1);
}

// A process lives on as another program: its memory, and with it its restore, is gone.
TEST(LeftByExec, TheRestoreEnds) {
  const Image image(64 * SMALL);
  Server server(image);
  Signal go;
  const ChildProcess target([&, socket = server.socket()] {
    const Target target(image, socket, SMALL);
    go.wait();
    _exit(target.holdsImage(0) && execlp("sleep", "sleep", "1000", nullptr) == 0 ? 0 : 1);
  });
  auto restore = server.restore();
  go.send();
  auto end = server.wait(restore.waitEndedRequest().send());
  EXPECT_EQ(end.getReason(), rpc::EndReason::TARGET_GONE);
  EXPECT_EQ(::kill(target.pid(), 0), 0);
}

}  // namespace
}  // namespace faultline::test
