// The target's side of a measurement: memory that is faulted in through a handshake socket, whoever serves
// it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "bench/image.h"
#include "bench/placement.h"
#include "client/latency_histogram.h"
#include "faultline_client.h"

namespace faultline::bench {

enum class Touch {
  read,     // of pages with content
  write,    // the same
  zero,     // reads of pages that are a hole of the source
  removed,  // reads of pages that the target gave back before
};

std::string nameOf(Touch touch);

struct Workload {
  std::uint64_t bytes = 128u << 20;  // touched, over all targets; rounded down to whole pages
  std::uint64_t regionBytes = 0;     // of each target's memory, where more than what is touched
  std::uint64_t pageSize = 4096;
  unsigned threads = 1;  // that fault, over all targets; at least one a target
  unsigned targets = 1;
  Touch touch = Touch::read;
  bool sequential = false;        // else in random order
  bool negotiateRemove = true;    // UFFD_FEATURE_EVENT_REMOVE
  unsigned removesPerSecond = 0;  // a page of its own is given back again and again
  Placement placement = Placement::free;
};

struct Measured {
  target::LatencyHistogram latency;  // ns, of each fault as its thread saw it
  std::uint64_t faults = 0;          // touches, without those that found the page there
  std::uint64_t touchTimes = 0;      // ns: when those began, the sum modulo 2^64
  std::uint64_t removals = 0;        // pages that were given back meanwhile
  double seconds = 0;                // from the first touch to the last

  double perSecond() const { return seconds > 0 ? static_cast<double>(faults) / seconds : 0; }
};

// Restores and touches. Throws std::runtime_error where there is no server, the machine does not allow it, or
// a page has other bytes than it must have: the figures would mean nothing. Threads are started and joined
// inside; one call at a time. `whileThere` is called when all is touched and the targets are still there.
Measured run(const Workload& workload, const BenchImage& image, const std::string& socket,
             const std::function<void()>& whileThere = nullptr);

struct IdleMemory {
  std::uint64_t bytes;  // of the image's content
  std::uint64_t pageSize = 4096;
  bool negotiateRemove = true;
};

// A target that has done its handshake and touches nothing.
class IdleTarget {
 public:
  IdleTarget(const IdleMemory& memory, const std::string& socket);
  ~IdleTarget();
  IdleTarget(const IdleTarget&) = delete;

  // One page beside the others, again and again.
  void giveBack() const;

 private:
  const std::uint64_t pageSize_;
  faultline_target* target_ = nullptr;
};

// Seconds from before the handshake of a region of `bytes` to the end of the first touch.
double attachSeconds(const BenchImage& image, std::uint64_t bytes, const std::string& socket);

}  // namespace faultline::bench
