// The undertaker alone: it answers, and leaves the loop to others.

#include "coordinator/undertaker.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <vector>

namespace faultline::coordinator {
namespace {

// A target that faults again as soon as it is answered has something to be read for ever: a pipe that is full
// of messages stands for it.
TEST(Undertaker, LeavesTheLoopToOthersHoweverMuchThereIsToAnswer) {
  constexpr std::size_t MESSAGES = 16384;
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const kj::AutoCloseFd out(ends[0]), in(ends[1]);
  constexpr int BYTES = MESSAGES * sizeof(uffd_msg);
  ASSERT_GE(fcntl(in.get(), F_SETPIPE_SZ, BYTES), BYTES);
  uffd_msg removal{};
  removal.event = UFFD_EVENT_REMOVE;  // needs no answer
  const std::vector<uffd_msg> messages(MESSAGES, removal);
  ASSERT_EQ(write(in.get(), messages.data(), BYTES), BYTES);

  auto io = kj::setupAsyncIo();
  Undertaker undertaker(io, out.get(), -1, "vm");
  auto burying = undertaker.run().eagerlyEvaluate(nullptr);
  io.provider->getTimer().afterDelay(0 * kj::SECONDS).wait(io.waitScope);
  int left = 0;
  ASSERT_EQ(ioctl(out.get(), FIONREAD, &left), 0);
  EXPECT_GT(left, 0);
  while (left > 0) {
    io.provider->getTimer().afterDelay(0 * kj::SECONDS).wait(io.waitScope);
    ASSERT_EQ(ioctl(out.get(), FIONREAD, &left), 0);
  }
}

}  // namespace
}  // namespace faultline::coordinator
