// Words shared by everything that talks about pages: indexes, ranges, states, regions.
#pragma once

#include <cstdint>

namespace faultline::shm {

// Dense number of a page over all regions of one restore, 0 .. Segment::pageCount()-1.
using PageIndex = std::uint64_t;

struct PageRange {
  PageIndex first = 0;
  std::uint64_t count = 0;  // pages

  PageIndex end() const { return first + count; }
  bool operator==(const PageRange&) const = default;
};

// The states of a page (docs/protocol.md, "A page's states"). No transition leads back to `missing`, and none out of
// `released`.
enum class PageState : std::uint8_t { missing, faulted, removed, released };

inline constexpr std::uint64_t SMALL_PAGE = 4096;     // bytes
inline constexpr std::uint64_t HUGE_PAGE = 2u << 20;  // bytes; hugetlb only

// A contiguous address range of the target backed by a contiguous range of the source.
// All in bytes; base, size and offset are multiples of pageSize once accepted.
struct Region {
  std::uint64_t base = 0;  // address in the target
  std::uint64_t size = 0;
  std::uint64_t offset = 0;  // in the source
  std::uint64_t pageSize = SMALL_PAGE;

  std::uint64_t pages() const { return size / pageSize; }
  bool operator==(const Region&) const = default;
};

}  // namespace faultline::shm
