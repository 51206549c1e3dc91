#include "coordinator/cpu_latency.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace faultline::coordinator {

namespace {

constexpr std::int32_t ANY =
    2'000'000'000;  // PM_QOS_CPU_LATENCY_DEFAULT_VALUE (include/linux/pm_qos.h): no request

kj::AutoCloseFd openDevice(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  KJ_REQUIRE(fd >= 0, "cannot open the device of the CPUs' latency", path, strerror(errno));
  return kj::AutoCloseFd(fd);
}

}  // namespace

CpuLatency::CpuLatency(kj::Timer& timer, std::uint32_t us, const std::string& device)
    : timer_(timer), us_(static_cast<std::int32_t>(us)), device_(openDevice(device)) {}

void CpuLatency::ask() {
  asked_ = true;
  write(us_);
  quiet_ = withdrawWhenQuiet().eagerlyEvaluate(nullptr);
}

kj::Promise<void> CpuLatency::withdrawWhenQuiet() {
  came_ = false;
  return timer_.afterDelay(LINGER).then([this]() -> kj::Promise<void> {
    if (came_) return withdrawWhenQuiet();
    asked_ = false;
    write(ANY);
    return kj::READY_NOW;
  });
}

void CpuLatency::write(std::int32_t us) {
  if (::write(device_.get(), &us, sizeof us) != sizeof us)
    spdlog::warn("the CPUs' latency cannot be set to {} us: {}", us, strerror(errno));
}

}  // namespace faultline::coordinator
