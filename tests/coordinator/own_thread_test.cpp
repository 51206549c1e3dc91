// Looks beyond those that may be under way at once wait for their turn.

#include "coordinator/own_thread.h"

#include <gtest/gtest.h>
#include <kj/async-io.h>

#include <atomic>
#include <latch>
#include <memory>
#include <vector>

#include "rpc/refusal.h"

namespace faultline::coordinator {
namespace {

TEST(OwnThread, LooksBeyondTheLimitWaitForTheirTurn) {
  auto io = kj::setupAsyncIo();
  constexpr unsigned MORE = 40;
  auto begun = std::make_shared<std::atomic<unsigned>>(0), over = std::make_shared<std::atomic<unsigned>>(0);
  auto all = std::make_shared<std::latch>(MAX_LOOKS), go = std::make_shared<std::latch>(1);
  std::vector<kj::Promise<void>> looks;
  for (unsigned i = 0; i < MAX_LOOKS + MORE; i++)
    looks.push_back(lookInOwnThread([begun, over, all, go] {
                      if (begun->fetch_add(1) < MAX_LOOKS) all->count_down();
                      go->wait();
                      over->fetch_add(1);
                    }).eagerlyEvaluate(nullptr));
  all->wait();
  EXPECT_EQ(begun->load(), MAX_LOOKS);
  // Work that is cancelled while it waits takes no turn, and costs no other its own.
  looks.pop_back();
  go->count_down();
  for (auto& look : looks) look.wait(io.waitScope);
  EXPECT_EQ(over->load(), MAX_LOOKS + MORE - 1);
  EXPECT_EQ(begun->load(), MAX_LOOKS + MORE - 1);
}

TEST(OwnThread, SoManyWaitAtMost) {
  auto io = kj::setupAsyncIo();
  auto go = std::make_shared<std::latch>(1);
  std::vector<kj::Promise<void>> looks;
  for (std::size_t i = 0; i < MAX_LOOKS + MAX_WAITING_LOOKS; i++)
    looks.push_back(lookInOwnThread([go] { go->wait(); }).eagerlyEvaluate(nullptr));
  try {
    lookInOwnThread([] {});
    ADD_FAILURE() << "not refused";
  } catch (const kj::Exception& error) {
    EXPECT_EQ(rpc::refusalOf(error).reason, rpc::Reason::LIMIT_REACHED);
  }
  go->count_down();
  for (auto& look : looks) look.wait(io.waitScope);
}

}  // namespace
}  // namespace faultline::coordinator
