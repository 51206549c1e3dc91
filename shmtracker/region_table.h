// Address to page to source offset: the one lookup, in one place. A source offset is never computed from an
// address anywhere else.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "shmtracker/layout.h"
#include "shmtracker/pages.h"

namespace faultline::shm {

// The place of a page, in the target and in the source.
struct PageLocation {
  std::uint64_t address;      // in the target, of the page's first byte
  std::uint64_t offset;       // in the source, bytes
  std::uint64_t pageSize;     // bytes
  std::uint64_t pagesBehind;  // pages from this one on, itself included, to the end of its region
};

// Why `regions` cannot be served, naming region and value; nothing where they can. `sourceBytes`: size of the
// source. Checks: at least one and at most MAX_REGIONS, page size 4 KiB or 2 MiB, size not 0, base, size and
// offset aligned to the page size, no wrap-around, within the source, no two overlapping in address, all
// together not much larger than the source.
std::optional<std::string> whyNotServable(std::span<const Region> regions, std::uint64_t sourceBytes);

// A view of region entries, sorted by address: the segment's, or the copy that Segment makes of them at
// attach. Constant after the segment's creation, so any thread of any process may use it without a lock.
class RegionTable {
 public:
  explicit RegionTable(std::span<const RegionEntry> entries) : entries_(entries) {}

  // Fills `entries` (as many as `regions`) sorted by address, numbering pages and extents.
  // Extents are 2 MiB of 4 KiB pages, or 8 MiB of 2 MiB pages.
  static void build(std::span<const Region> regions, std::span<RegionEntry> entries);
  static std::uint32_t extentsOf(std::span<const Region> regions);
  static std::uint64_t pagesOf(std::span<const Region> regions);

  // The page that `address` lies in; nothing outside of every region.
  std::optional<PageIndex> pageAt(std::uint64_t address) const;
  // The pages that [start, end) covers, region by region; an end inside a page takes in that page only if
  // `start` .. `end` covers it wholly (the kernel zaps whole pages). Ranges outside of regions are left out.
  std::vector<PageRange> pagesIn(std::uint64_t start, std::uint64_t end) const;
  // `page` must be < the number of pages.
  PageLocation locate(PageIndex page) const { return locate(entryOf(page), page); }
  std::uint32_t extentOf(PageIndex page) const;
  // The pages of an extent; `extent` must exist.
  PageRange pagesOfExtent(std::uint32_t extent) const;
  // The regions, in order of address.
  std::vector<Region> regions() const;
  std::span<const RegionEntry> entries() const { return entries_; }

 private:
  const RegionEntry& entryOf(PageIndex page) const;
  static PageLocation locate(const RegionEntry& entry, PageIndex page);

  std::span<const RegionEntry> entries_;
};

}  // namespace faultline::shm
