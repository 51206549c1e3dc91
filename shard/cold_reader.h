// Reads of the source that wait for a disk, off the fault thread: io_uring into resident buffers.
#pragma once

#include <kj/io.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "failpoints/failpoints.h"
#include "shard/retry_queue.h"

namespace faultline::shard {

// For one thread. Allocates only on the first use of a page size and when its waiting list grows.
class ColdReader {
 public:
  // One small page or one huge page read each, at most that many at once.
  static constexpr unsigned SMALL_READS = 128;
  static constexpr unsigned HUGE_READS = 8;

  // `failpoints` must outlive it.
  explicit ColdReader(failpoints::Failpoints& failpoints);
  ~ColdReader();

  // False where the kernel refuses io_uring (kernel.io_uring_disabled, a seccomp filter): read() must not be
  // used then, cold pages are read where they are met.
  bool available() const;
  // Prepares reading the fault's page. More than fit wait in line.
  void read(const Fault& fault);
  // Begins what is prepared, with one system call. False: the kernel does not take it all now; call again.
  bool submit();
  // Readable when reads have ended; -1 where unavailable.
  int eventFd() const;
  // Calls `done(fault, data, error)` for each read that has ended: `data` is valid during the call and null
  // where the read failed (`error`: errno; 0: the file ended before it). Returns how many.
  unsigned reap(const std::function<void(const Fault&, const void* data, int error)>& done);
  // Nothing is reported any more of a restore that goes away.
  void forget(const Attachment* restore);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace faultline::shard
