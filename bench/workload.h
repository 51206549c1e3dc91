// The target's side of a measurement: memory that is faulted in, with any backing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/backing.h"
#include "bench/image.h"
#include "bench/pattern.h"
#include "bench/placement.h"
#include "bench/target_memory.h"
#include "client/latency_histogram.h"

namespace faultline::bench {

enum class Touch {
  read,       // reads of pages with content
  write,      // writes of pages with content
  zero,       // reads of pages that are a hole of the source
  zeroWrite,  // writes of pages that are a hole of the source
  removed,    // reads of pages that the target gave back before
};

std::string nameOf(Touch touch);

struct Workload {
  std::uint64_t bytes = 128u << 20;  // touched at most, over all targets; rounded down to whole pages
  std::uint64_t regionBytes = 0;     // size of each target's memory, where more than is touched
  std::uint64_t pageSize = 4096;
  unsigned threads = 1;  // faulting threads, over all targets; at least one a target
  unsigned targets = 1;
  Touch touch = Touch::read;
  Pattern pattern = Pattern::random;  // over the whole region; what is more than `bytes` of it is left out
  bool negotiateRemove = true;        // UFFD_FEATURE_EVENT_REMOVE
  unsigned removesPerSecond = 0;      // a page of its own is given back again and again
  unsigned pauseUs = 0;               // pause of each thread between its touches
  bool hugePages = false;             // MADV_HUGEPAGE
  bool restoreBegun = false;          // a page beside the others is touched first
  bool everyByte = false;             // compares whole pages, not first words alone: not for time
  Placement placement = Placement::free;
};

struct Measured {
  target::LatencyHistogram latency;     // ns, of each fault as its thread saw it
  target::LatencyHistogram anyTouch;    // ns, touches that found the page there included
  target::LatencyHistogram givingBack;  // ns, of each madvise of `removesPerSecond`
  std::uint64_t touches = 0;
  std::uint64_t faults = 0;      // touches, without those that found the page there
  std::uint64_t touchTimes = 0;  // ns: when those began, the sum modulo 2^64
  std::uint64_t removals = 0;    // pages that were given back meanwhile
  double seconds = 0;            // from the first touch to the last
  double wholeSeconds = 0;       // from before the first handshake to the last touch
  double serverSeconds = 0;      // CPU time of the server's processes in those; 0 where they are not known

  double perSecond() const { return seconds > 0 ? static_cast<double>(faults) / seconds : 0; }
  double touchesPerSecond() const { return seconds > 0 ? static_cast<double>(touches) / seconds : 0; }
  double serverSecondsATouch() const {
    return touches > 0 ? serverSeconds / static_cast<double>(touches) : 0;
  }
};

struct RunHooks {
  std::function<void()> beforeConnecting = nullptr;  // all is mapped and prepared
  std::function<void()> connected = nullptr;         // the handshakes are done, nothing is touched
  std::function<void()> whileThere = nullptr;        // all is touched, the targets are still there
};

// Restores and touches. Throws std::runtime_error where there is no server, the machine does not allow it, or
// a page has other bytes than it must have: the figures would mean nothing. Threads are started and joined
// inside; one call at a time.
Measured run(const Workload& workload, const BenchImage& image, const Backing& backing,
             const RunHooks& hooks = {});

// The pages of one target in the order in which run() touches them; each thread has an equal piece of it.
std::vector<std::uint32_t> touchOrder(const Workload& workload, const BenchImage& image);

// Seconds until all is touched of `restores` targets, each a process of its own that does what `workload`
// says from its handshake on, all begun at once. Throws as run() does. The calling process must have no other
// thread.
double secondsOfRestoresAtOnce(unsigned restores, const Workload& workload, const BenchImage& image,
                               const Backing& backing);

struct IdleMemory {
  std::uint64_t bytes;
  std::uint64_t pageSize = 4096;
  bool negotiateRemove = true;
  std::uint64_t offset = 0;  // in the image, bytes
  bool hugePages = false;    // is advised to
};

// A target that has done its handshake and touches nothing.
class IdleTarget {
 public:
  IdleTarget(const IdleMemory& memory, const Backing& backing);

  // Gives back a page beside the others, again and again.
  void giveBack() const;
  // Gives all of it back in one madvise; returns its seconds.
  double giveAllBack() const;
  // Writes to each page once, in order; what each write took, in ns.
  target::LatencyHistogram writeAll() const;

 private:
  const IdleMemory memory_;
  TargetMemory target_;
};

// Seconds from before the handshake of a region of `bytes` to the end of the first touch, of a target that is a process of
// its own: its memory goes with it, and the server need not look at each page whether it is still there. The calling
// process must have no other thread.
double attachSeconds(const BenchImage& image, std::uint64_t bytes, const Backing& backing);

}  // namespace faultline::bench
