// The parts of the source's mapping that the fault thread may use in place, without asking for each page.
//
// A window is what the kernel maps at one page fault (64 KiB). A first fault in it is answered by a read; at
// the second it is mapped, if the page cache has all of it, and those that follow cost neither a system call
// nor a second copy. So scattered faults pay nothing for it. What it knows ages: pages that are mapped and in
// use are the last to be reclaimed, and nothing is believed for longer than a second, so a fault that waits
// for the disk after all is as rare as memory is short.
#pragma once

#include <cstdint>
#include <vector>

#include "shard/source.h"

namespace faultline::shard {

// For one thread. Allocates nothing after construction; 2 bits for each 64 KiB of the source, and 32 KiB.
class ResidentWindows {
 public:
  static constexpr std::uint64_t WINDOW = 64u << 10;  // bytes; mm/memory.c, fault_around_pages
  // So many are mapped at most, the oldest is given up for a new one: what the process maps stays bounded.
  static constexpr std::size_t MOST = 8192;                 // 512 MiB
  static constexpr std::uint64_t BELIEVED = 1'000'000'000;  // ns

  // `source` (of `bytes` bytes) is borrowed.
  ResidentWindows(const Source& source, std::uint64_t bytes, std::size_t most = MOST);

  // A fault wants the page at `offset` (bytes), at the time `now` (ns): true if stageInPlace() of it will not
  // wait.
  bool resident(std::uint64_t offset, std::uint64_t now);

 private:
  void keep(std::uint32_t window);

  const Source& source_;
  const std::uint32_t windows_;  // whole ones; what is left at the source's end is always read
  std::vector<bool> asked_, mapped_;
  const std::size_t most_;
  std::vector<std::uint32_t> kept_;  // a ring of those that are mapped
  std::size_t oldest_ = 0;
  std::uint64_t since_ = 0;  // ns: when the first of mapped_ was found resident
};

}  // namespace faultline::shard
