// Which pages a target touched first, in that order: the recording of a working set.
//
// Lies in a memfd that the supervisor keeps, so that a successor goes on with it. Bounded: 4 bytes a page,
// for MAX_TOUCHES pages at most, and one bit a page of the restore; all of it is there before the first
// fault.
#pragma once

#include <kj/array.h>
#include <kj/io.h>

#include <cstdint>
#include <vector>

#include "shmtracker/pages.h"

namespace faultline::coordinator {

// Loop thread only.
class TouchRecorder {
 public:
  static constexpr std::uint64_t MAX_TOUCHES = 1u << 20;

  // Begins a recording for a restore with so many pages. Throws where there is no memory, or where its pages
  // cannot be numbered with 32 bits.
  explicit TouchRecorder(std::uint64_t pages);
  // Goes on with a predecessor's. Throws where its bytes make no sense.
  TouchRecorder(int fd, std::uint64_t pages);
  ~TouchRecorder();
  TouchRecorder(const TouchRecorder&) = delete;

  int fd() const { return fd_.get(); }  // borrowed

  // A missing page was touched. `page` must be < the restore's pages. Allocates nothing, calls nothing.
  void touched(shm::PageIndex page);

  std::uint64_t recorded() const;
  // First touches that came when the list was full, pages. A coordinator that takes over counts pages anew
  // that are touched again.
  std::uint64_t lost() const;
  // The page at `position` < recorded().
  shm::PageIndex at(std::uint64_t position) const;

 private:
  struct Shared;
  Shared& map();

  const std::uint64_t pages_;
  const std::uint64_t capacity_;
  kj::AutoCloseFd fd_;
  Shared* shared_ = nullptr;
  std::vector<std::uint64_t> seen_;  // a bit a page: each is listed once
};

}  // namespace faultline::coordinator
