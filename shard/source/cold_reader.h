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
  // Limits of reads of one source at once, of a small page, of several and of a huge one; further reads wait in line.
  static constexpr unsigned SMALL_READS = 128, RUN_READS = 32;
  static constexpr unsigned HUGE_READS = 8;
  static constexpr std::uint64_t MOST_RUN = 64u << 10;  // bytes

  // `done(fault, staged)`: bytes, which are valid during the call, zero or lost; cold: it is known now where to read.
  using Done = std::function<void(const Fault&, const Staged&)>;

  // `points` must outlive it.
  explicit ColdReader(failpoints::Failpoints& points);
  ~ColdReader();

  // False where the kernel refuses io_uring (kernel.io_uring_disabled, a seccomp filter): reader threads do
  // it all.
  bool usesRing() const;
  // Reads `length` bytes at `offset` of `source` for the fault: small pages, at most MOST_RUN, or a huge one.
  void read(const Fault& fault, const PageSource& source, std::uint64_t offset, std::uint64_t length);
  // True while a byte of the range is being read for another fault; what waits in line does not count.
  bool reading(const PageSource& source, std::uint64_t offset, std::uint64_t length) const;
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
