// Work in threads of its own: looks beyond those that may be under way at once wait for their turn; a thread that cannot be had is
// waited for.

#include "coordinator/own_thread.h"

#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <vector>

#include "rpc/refusal.h"
#include "tests/support/child_process.h"

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

// In a process that may have no more threads. Root may always.
template <typename Work>
int withoutThreads(Work work) {
  test::ChildProcess child([work] {
    prepareOwnThreads();
    if (geteuid() == 0 && setuid(65534) != 0) _exit(20);
    rlimit limit;
    getrlimit(RLIMIT_NPROC, &limit);
    const rlimit none{0, limit.rlim_max};
    if (setrlimit(RLIMIT_NPROC, &none) != 0) _exit(21);
    auto io = kj::setupAsyncIo();
    _exit(work(io, [limit] { setrlimit(RLIMIT_NPROC, &limit); }));
  });
  return child.join();
}

TEST(OwnThread, OneThatCannotBeHadIsWaitedFor) {
  EXPECT_EQ(withoutThreads([](kj::AsyncIoContext& io, auto allow) {
              auto done = std::make_shared<std::atomic<bool>>(false);
              auto work = inOwnThread("nothing can be done", [done] { done->store(true); });
              if (work.poll(io.waitScope) || done->load()) return 1;
              allow();
              work.wait(io.waitScope);
              return done->load() ? 0 : 2;
            }),
            0);
}

TEST(OwnThread, OneThatCannotBeHadForLongIsNotWaitedForAnyMore) {
  EXPECT_EQ(withoutThreads([](kj::AsyncIoContext& io, auto) {
              const auto begun = std::chrono::steady_clock::now();
              try {
                inOwnThread("nothing can be done", [] { _exit(3); }).wait(io.waitScope);
                return 1;
              } catch (const kj::Exception& error) {
                const std::string text = error.getDescription().cStr();
                if (text.find("nothing can be done: no thread can be made") != 0) return 2;
              }
              return std::chrono::steady_clock::now() - begun >= THREAD_PATIENCE ? 0 : 4;
            }),
            0);
}

}  // namespace
}  // namespace faultline::coordinator
