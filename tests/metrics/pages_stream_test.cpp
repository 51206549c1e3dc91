// `faultline pages` takes the runs as the server tells them: its memory does not grow with their number.

#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "process/process.h"
#include "rpc/connection.h"
#include "rpc/control.capnp.h"
#include "tests/cli/command.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t RUNS_AN_ANSWER = 65536;

// Every second page of it is faulted. Says so in answers of 65536 runs, and holds the last of them back.
class Alternating final : public rpc::Restore::Server {
 public:
  explicit Alternating(std::uint64_t pages) : pages_(pages) {}

  kj::Promise<void> info(InfoContext context) override {
    context.getResults().initInfo().setPages(pages_);
    return kj::READY_NOW;
  }
  kj::Promise<void> pageStates(PageStatesContext context) override {
    const std::uint64_t first = context.getParams().getPages().getFirst();
    const std::uint64_t count = std::min(pages_ - first, RUNS_AN_ANSWER);
    auto runs = context.getResults().initRuns(static_cast<unsigned>(count));
    for (unsigned i = 0; i < count; i++) {
      runs[i].initPages().setFirst(first + i);
      runs[i].getPages().setCount(1);
      runs[i].setState((first + i) % 2 == 0 ? rpc::PageState::FAULTED : rpc::PageState::MISSING);
    }
    if (first + count < pages_) return kj::READY_NOW;
    held = true;
    return kj::mv(last.promise);
  }

  bool held = false;
  kj::PromiseFulfillerPair<void> last = kj::newPromiseAndFulfiller<void>();

 private:
  const std::uint64_t pages_;
};

class Coordinator final : public rpc::Coordinator::Server {
 public:
  explicit Coordinator(rpc::Restore::Client restore) : restore_(kj::mv(restore)) {}
  kj::Promise<void> restore(RestoreContext context) override {
    context.getResults().setRestore(restore_);
    return kj::READY_NOW;
  }

 private:
  rpc::Restore::Client restore_;
};

// KiB, so far.
std::uint64_t peakMemoryOf(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; status >> word;)
    if (std::uint64_t kib; word == "VmHWM:" && status >> kib) return kib;
  return 0;
}

struct Printed {
  std::uint64_t peak = 0;  // KiB, as the last answer is still to come
  std::string text;
};

// Output of `faultline pages --json` of a restore of so many pages.
Printed print(std::uint64_t pages) {
  auto io = kj::setupAsyncIo();
  const Directory directory;
  auto restore = kj::heap<Alternating>(pages);
  Alternating& told = *restore;
  rpc::Acceptor acceptor(rpc::Coordinator::Client(kj::heap<Coordinator>(kj::mv(restore))));
  const std::string control = directory / "control", out = directory / "out";
  auto serving = acceptor.listen(*io.lowLevelProvider, rpc::listenAt(control)).eagerlyEvaluate(nullptr);
  const std::string program = process::siblingExecutable("faultline");
  Command command({"-c", "exec " + program + " pages vm --json --control " + control + " >" + out},
                  "/bin/sh");
  const kj::AutoCloseFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, command.pid(), 0)));
  Printed printed;
  while (!process::hasEnded(pidfd.get())) {
    io.waitScope.poll();
    if (!std::exchange(told.held, false)) continue;
    printed.peak = peakMemoryOf(command.pid());
    told.last.fulfiller->fulfill();
  }
  EXPECT_EQ(command.finish().code, 0);
  std::ifstream file(out);
  printed.text.assign(std::istreambuf_iterator<char>(file), {});
  return printed;
}

TEST(PagesCommand, PrintsOneArrayOfEveryRun) {
  const auto runs = nlohmann::json::parse(print(RUNS_AN_ANSWER + 3).text);
  ASSERT_EQ(runs.size(), RUNS_AN_ANSWER + 3);
  EXPECT_EQ(runs[0], nlohmann::json({{"first", 0}, {"count", 1}, {"state", "faulted"}}));
  EXPECT_EQ(runs.back(), nlohmann::json({{"first", RUNS_AN_ANSWER + 2}, {"count", 1}, {"state", "faulted"}}));
}

// Five times as many runs; half as much again is what an allocator may need.
TEST(PagesCommand, MemoryDoesNotGrowWithTheRuns) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps what was freed";
#endif
  const std::uint64_t few = print(2 * RUNS_AN_ANSWER).peak, many = print(10 * RUNS_AN_ANSWER).peak;
  ASSERT_GT(few, 0u);
  EXPECT_LE(many, few + few / 2) << few << " KiB";
}

}  // namespace
}  // namespace faultline::test
