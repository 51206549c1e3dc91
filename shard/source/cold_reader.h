// Pages whose bytes have to be waited for: read off the fault thread, handed back to it when they are there.
//
// A small page of a file that the kernel reads without a thread of ours goes by io_uring. All others are read
// by the reader threads of their source. Either way each source has places of its own, so that one that does
// not answer takes none of another's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "failpoints/failpoints.h"
#include "shard/fault.h"
#include "shard/source/page_source.h"

namespace faultline::shard {

// For one thread. Allocates only when more is read at once than ever before, or more waits in line.
class ColdReader {
 public:
  // Limits of reads of one source at once, of small and of huge pages; further reads wait in line.
  static constexpr unsigned SMALL_READS = 128;
  static constexpr unsigned HUGE_READS = 8;

  // `done(fault, staged)`: bytes, which are valid during the call, zero or lost; cold: it is known now where to read.
  using Done = std::function<void(const Fault&, const Staged&)>;

  // `points` must outlive it.
  explicit ColdReader(failpoints::Failpoints& points);
  ~ColdReader();

  // False where the kernel refuses io_uring (kernel.io_uring_disabled, a seccomp filter): reader threads do
  // it all.
  bool usesRing() const;
  // Reads the fault's page, `length` bytes at `offset` of `source`: 4 KiB or 2 MiB.
  void read(const Fault& fault, const PageSource& source, std::uint64_t offset, std::uint64_t length);
  // Begins the prepared reads, with one system call. False: not all could be begun now; call again.
  bool submit();
  // Readable when reads have ended.
  int eventFd() const;
  // Calls `done` for each read that has ended. Returns how many.
  unsigned reap(const Done& done);
  // Ends the reports of a source that goes away. Does not wait: reads under way keep what they need.
  void forget(const PageSource& source);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace faultline::shard
