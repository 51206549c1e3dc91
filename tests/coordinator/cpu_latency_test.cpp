// The CPUs' latency is asked for when faults begin to flow, and withdrawn when they end; each change is one
// write.
#include "coordinator/cpu_latency.h"

#include <gtest/gtest.h>
#include <kj/async.h>
#include <kj/debug.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

namespace faultline::coordinator {
namespace {

constexpr std::int32_t NONE = 2'000'000'000;

// A file in the device's place, and a clock that stands still.
class Machine {
 public:
  Machine() : scope_(loop_), timer_(now_) {
    const int fd = mkstemp(path_);
    KJ_REQUIRE(fd >= 0);
    file_ = kj::AutoCloseFd(fd);
  }
  ~Machine() noexcept(false) { unlink(path_); }

  kj::Timer& timer() { return timer_; }
  CpuLatency latency(std::uint32_t us) { return CpuLatency(timer_, us, path_); }

  void passes(kj::Duration time) {
    now_ += time;
    timer_.advanceTo(now_);
    loop_.run();
  }
  // In a file the values stand one behind the other; in the device the last one holds.
  std::vector<std::int32_t> written() const {
    std::vector<std::int32_t> values(16);
    const ssize_t got = pread(file_.get(), values.data(), values.size() * sizeof values[0], 0);
    values.resize(static_cast<std::size_t>(got) / sizeof values[0]);
    return values;
  }

 private:
  char path_[32] = "/tmp/faultline-test-XXXXXX";
  kj::AutoCloseFd file_;
  kj::EventLoop loop_;
  kj::WaitScope scope_;
  kj::TimePoint now_ = kj::origin<kj::TimePoint>();
  kj::TimerImpl timer_;
};

using Values = std::vector<std::int32_t>;

TEST(CpuLatency, IsNotAskedForBeforeAFault) {
  Machine machine;
  const CpuLatency latency = machine.latency(5);
  machine.passes(kj::SECONDS);
  EXPECT_EQ(machine.written(), Values{});
}

TEST(CpuLatency, IsAskedForOnceWhileFaultsFlow) {
  Machine machine;
  CpuLatency latency = machine.latency(5);
  for (int i = 0; i < 10; i++) {
    latency.faultsCame();
    latency.faultsCame();
    machine.passes(CpuLatency::LINGER);
  }
  EXPECT_EQ(machine.written(), Values{5});
}

TEST(CpuLatency, IsWithdrawnWhenNoFaultHasComeForAWhile) {
  Machine machine;
  CpuLatency latency = machine.latency(0);
  latency.faultsCame();
  machine.passes(CpuLatency::LINGER);
  EXPECT_EQ(machine.written(), (Values{0, NONE}));
  machine.passes(kj::SECONDS);
  EXPECT_EQ(machine.written(), (Values{0, NONE}));
}

TEST(CpuLatency, IsAskedForAgainByTheNextFault) {
  Machine machine;
  CpuLatency latency = machine.latency(0);
  latency.faultsCame();
  machine.passes(CpuLatency::LINGER);
  latency.faultsCame();
  EXPECT_EQ(machine.written(), (Values{0, NONE, 0}));
}

TEST(CpuLatency, NamesTheDeviceThatCannotBeOpened) {
  Machine machine;
  try {
    const CpuLatency latency(machine.timer(), 0, "/nonexistent/latency");
    FAIL() << "opened";
  } catch (const kj::Exception& error) {
    EXPECT_NE(std::string(error.getDescription().cStr()).find("/nonexistent/latency"), std::string::npos);
  }
}

}  // namespace
}  // namespace faultline::coordinator
