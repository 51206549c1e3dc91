// REMOVE traffic: pages that are given back again and again while something else is measured.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "bench/placement.h"
#include "client/latency_histogram.h"

namespace faultline::bench {

// Runs from construction to stop(). A round takes as long as the handler takes to read the event, so rounds
// are fewer than asked for.
class Remover {
 public:
  // `giveBack`: one round, whatever it gives back. `perSecond` 0: never.
  Remover(unsigned perSecond, Placement placement, std::function<void()> giveBack);
  ~Remover();
  Remover(const Remover&) = delete;

  // Rounds that were done.
  std::uint64_t stop();
  // The durations of the rounds, in ns. After stop().
  const target::LatencyHistogram& latency() const { return latency_; }

 private:
  std::atomic<bool> over_{false};
  target::LatencyHistogram latency_;  // the thread's
  std::thread thread_;
};

}  // namespace faultline::bench
