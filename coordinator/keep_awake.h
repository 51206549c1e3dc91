// Keeps CPUs from going to sleep while faults keep coming.
//
// A fault crosses three processes, and each hand-over that finds its CPU halted pays for waking it: 40 us on
// a virtual machine, up to as much on bare metal with deep C-states; more than the whole fault. Threads of
// the policy SCHED_IDLE, one a CPU, spin for a moment after each fault instead: they give way at once to
// whatever wants the CPU (sched(7)), so only time that nobody else wants is spent.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace faultline::coordinator {

// Any thread.
class KeepAwake {
 public:
  // One thread for each CPU that this process may use; none where there is only one, which is awake whenever
  // it is needed, or where `enabled` is false.
  explicit KeepAwake(bool enabled);
  ~KeepAwake();
  KeepAwake(const KeepAwake&) = delete;

  // Faults were read at `now` (ns, CLOCK_MONOTONIC).
  void faultsCame(std::uint64_t now);

 private:
  void keep(int cpu);

  std::atomic<std::uint64_t> last_{0}, until_{0};
  std::atomic<std::uint32_t> rounds_{0};  // +1 to wake the threads
  std::atomic<std::uint32_t> asleep_{0};
  std::atomic<bool> over_{false};
  std::vector<std::thread> threads_;
};

}  // namespace faultline::coordinator
