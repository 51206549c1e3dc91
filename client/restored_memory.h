// The memory that is restored: the image's pages, in regions scattered over the address space.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "client/image.h"
#include "faultline_client.h"

namespace faultline::target {

// Pages are numbered as they are in the image. Slots number the same pages by address, so that a run of slots
// is a run of memory. Constant after connect(); any thread.
class RestoredMemory {
 public:
  // `flags`: of faultline_target_open. The image is cut into `regions` parts, and these are mapped in an
  // order that follows from `seed`. UsageError: more regions than pages. EnvironmentError: no userfaultfd, or
  // not enough huge pages.
  RestoredMemory(const Image& image, unsigned regions, unsigned flags, std::uint64_t seed);
  ~RestoredMemory();
  RestoredMemory(const RestoredMemory&) = delete;

  // The handshake. EnvironmentError: no server, within `timeoutMs`.
  void connect(const std::string& socket, unsigned timeoutMs);
  // The server has closed its end, after connect(). Any thread, at any time.
  bool peerClosed() const { return connected_.load() && faultline_target_wait_peer(target_, 0) == 0; }

  char* address(std::uint64_t page) const;
  std::uint64_t pageAt(std::uint64_t slot) const;
  std::uint64_t slotOf(std::uint64_t page) const;
  // How many slots from this one on are without a gap in memory, at most `most`; they may be of several
  // regions.
  std::uint64_t contiguous(std::uint64_t slot, std::uint64_t most) const;

 private:
  struct Part {
    std::uint64_t firstPage, firstSlot, pages;
    char* address;
  };
  const Part& partOfPage(std::uint64_t page) const;
  std::size_t partAtSlot(std::uint64_t slot) const;

  const std::uint64_t pageSize_;
  faultline_target* target_ = nullptr;
  std::atomic<bool> connected_{false};
  std::vector<Part> byPage_, byAddress_;
};

}  // namespace faultline::target
