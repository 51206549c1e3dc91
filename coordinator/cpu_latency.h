// Keeps CPUs from sleeping deeply while faults flow: a fault crosses three threads, and each wakes the next.
//
// Asks through /dev/cpu_dma_latency (Documentation/power/pm_qos_interface.rst): with 0, an idle CPU polls
// instead of halting, so that nothing has to be sent to it to wake it. The request holds for the whole
// machine, and ends with the process whatever ends it.
#pragma once

#include <kj/io.h>
#include <kj/timer.h>

#include <cstdint>
#include <string>

namespace faultline::coordinator {

// Loop thread only.
class CpuLatency {
 public:
  static constexpr kj::Duration LINGER = 20 * kj::MILLISECONDS;
  static constexpr const char* DEVICE = "/dev/cpu_dma_latency";

  // To be asked for while faults flow: `us`. Throws kj::Exception where the device cannot be opened.
  CpuLatency(kj::Timer& timer, std::uint32_t us, const std::string& device = DEVICE);

  // Faults have been read. A system call for the first ones only; the request is withdrawn when none have
  // come for one to two LINGERs.
  void faultsCame() {
    came_ = true;
    if (!asked_) ask();
  }

 private:
  void ask();
  kj::Promise<void> withdrawWhenQuiet();
  void write(std::int32_t us);

  kj::Timer& timer_;
  const std::int32_t us_;
  kj::AutoCloseFd device_;
  bool came_ = false;
  bool asked_ = false;
  kj::Promise<void> quiet_ = nullptr;
};

}  // namespace faultline::coordinator
