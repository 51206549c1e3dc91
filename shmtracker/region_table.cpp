#include "shmtracker/region_table.h"

#include <algorithm>
#include <bit>
#include <sstream>

namespace faultline::shm {

namespace {

std::uint32_t pageShift(const Region& region) {
  return std::countr_zero(region.pageSize);
}
std::uint32_t extentShift(const Region& region) {
  return region.pageSize == SMALL_PAGE ? 9 : 2;
}
std::uint64_t extents(const Region& region) {
  return (region.pages() + (1ull << extentShift(region)) - 1) >> extentShift(region);
}
std::uint64_t pages(const RegionEntry& entry) {
  return entry.size >> entry.pageShift;
}

// A byte of the source belongs in one place (docs/firecracker.md); a little more is let pass. The pages
// tracked for a target so stay within a bound that the operator knows: the size of the file.
constexpr std::uint64_t MAX_TIMES_MAPPED = 2;

std::string describe(std::size_t index, const Region& region) {
  std::ostringstream out;
  out << "region " << index << " (base_host_virt_addr 0x" << std::hex << region.base << std::dec << ", size "
      << region.size << ", offset " << region.offset << ", page_size " << region.pageSize << ")";
  return out.str();
}

std::optional<std::string> whyNotServable(std::size_t index, const Region& region,
                                          std::uint64_t sourceBytes) {
  const auto refused = [&](const std::string& why) { return describe(index, region) + why; };
  if (region.pageSize != SMALL_PAGE && region.pageSize != HUGE_PAGE)
    return refused(": this page size is not served; 4096 and 2097152 are");
  if (region.size == 0) return refused(": the size is 0: leave the region out, or give its size in bytes");
  const std::uint64_t mask = region.pageSize - 1;
  if ((region.base | region.size | region.offset) & mask)
    return refused(": base, size and offset must be multiples of the page size");
  if (region.base + region.size < region.base)
    return refused(": the range wraps around the end of the address space: give address and size as mapped");
  if (region.offset + region.size < region.offset || region.offset + region.size > sourceBytes)
    return refused(": reaches past the end of the source, which has " + std::to_string(sourceBytes) +
                   " bytes: give this snapshot's own memory file, whole");
  return std::nullopt;
}

}  // namespace

std::optional<std::string> whyNotServable(std::span<const Region> regions, std::uint64_t sourceBytes) {
  if (regions.empty()) return "no region is given: name the memory that is to be restored";
  if (regions.size() > MAX_REGIONS)
    return std::to_string(regions.size()) + " regions are given; at most " + std::to_string(MAX_REGIONS) +
           " are served";
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < regions.size(); i++) {
    if (auto why = whyNotServable(i, regions[i], sourceBytes)) return why;
    // Compared as it grows, so that it does not wrap around.
    bytes += regions[i].size;
    if (bytes / MAX_TIMES_MAPPED > sourceBytes)
      return "regions 0 to " + std::to_string(i) + " have " + std::to_string(bytes) +
             " bytes together, and the source has " + std::to_string(sourceBytes) + ": at most " +
             std::to_string(MAX_TIMES_MAPPED) +
             " times its size is served, as every region has bytes of its own";
  }
  std::vector<std::size_t> order(regions.size());
  for (std::size_t i = 0; i < order.size(); i++) order[i] = i;
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return regions[a].base < regions[b].base; });
  for (std::size_t i = 1; i < order.size(); i++) {
    const Region& before = regions[order[i - 1]];
    if (before.base + before.size > regions[order[i]].base)
      return describe(order[i - 1], before) + " and " + describe(order[i], regions[order[i]]) +
             " overlap: name each address once";
  }
  if (const std::uint64_t pages = RegionTable::pagesOf(regions); pages > MAX_PAGES)
    return "the regions have " + std::to_string(pages) + " pages together; at most " +
           std::to_string(MAX_PAGES) + " are served: restore fewer regions, or use pages of 2 MiB";
  return std::nullopt;
}

std::uint32_t RegionTable::extentsOf(std::span<const Region> regions) {
  std::uint64_t total = 0;
  for (const Region& region : regions) total += extents(region);
  return static_cast<std::uint32_t>(total);
}

std::uint64_t RegionTable::pagesOf(std::span<const Region> regions) {
  std::uint64_t total = 0;
  for (const Region& region : regions) total += region.pages();
  return total;
}

void RegionTable::build(std::span<const Region> regions, std::span<RegionEntry> entries) {
  std::vector<Region> sorted(regions.begin(), regions.end());
  std::sort(sorted.begin(), sorted.end(), [](auto& a, auto& b) { return a.base < b.base; });
  std::uint64_t page = 0;
  std::uint32_t extent = 0;
  for (std::size_t i = 0; i < sorted.size(); i++) {
    const Region& region = sorted[i];
    entries[i] = {region.base, region.size,       region.offset,       page,
                  extent,      pageShift(region), extentShift(region), 0};
    page += region.pages();
    extent += static_cast<std::uint32_t>(extents(region));
  }
}

std::optional<PageIndex> RegionTable::pageAt(std::uint64_t address) const {
  auto behind = std::upper_bound(entries_.begin(), entries_.end(), address,
                                 [](std::uint64_t a, const RegionEntry& e) { return a < e.base; });
  if (behind == entries_.begin()) return std::nullopt;
  const RegionEntry& entry = *(behind - 1);
  if (address - entry.base >= entry.size) return std::nullopt;
  return entry.firstPage + ((address - entry.base) >> entry.pageShift);
}

std::vector<PageRange> RegionTable::pagesIn(std::uint64_t start, std::uint64_t end) const {
  std::vector<PageRange> ranges;
  for (const RegionEntry& entry : entries_) {
    const std::uint64_t from = std::max(start, entry.base);
    const std::uint64_t to = std::min(end, entry.base + entry.size);
    if (from >= to) continue;
    const std::uint64_t mask = (1ull << entry.pageShift) - 1;
    const std::uint64_t first = (from - entry.base + mask) >> entry.pageShift;
    const std::uint64_t last = (to - entry.base) >> entry.pageShift;
    if (first < last) ranges.push_back({entry.firstPage + first, last - first});
  }
  return ranges;
}

const RegionEntry& RegionTable::entryOf(PageIndex page) const {
  auto behind = std::upper_bound(entries_.begin(), entries_.end(), page,
                                 [](PageIndex p, const RegionEntry& e) { return p < e.firstPage; });
  return *(behind - 1);
}

PageLocation RegionTable::locate(const RegionEntry& entry, PageIndex page) {
  const std::uint64_t in = page - entry.firstPage;
  const std::uint64_t bytes = in << entry.pageShift;
  return {entry.base + bytes, entry.offset + bytes, 1ull << entry.pageShift, pages(entry) - in};
}

std::uint32_t RegionTable::extentOf(PageIndex page) const {
  const RegionEntry& entry = entryOf(page);
  return entry.firstExtent + static_cast<std::uint32_t>((page - entry.firstPage) >> entry.extentShift);
}

PageRange RegionTable::pagesOfExtent(std::uint32_t extent) const {
  auto behind = std::upper_bound(entries_.begin(), entries_.end(), extent,
                                 [](std::uint32_t x, const RegionEntry& e) { return x < e.firstExtent; });
  const RegionEntry& entry = *(behind - 1);
  const std::uint64_t first = std::uint64_t{extent - entry.firstExtent} << entry.extentShift;
  return {entry.firstPage + first, std::min<std::uint64_t>(1ull << entry.extentShift, pages(entry) - first)};
}

std::vector<Region> RegionTable::regions() const {
  std::vector<Region> regions;
  // The table may be unchecked, and the shift have any value; 0 bytes are no valid page size.
  for (const RegionEntry& e : entries_)
    regions.push_back({e.base, e.size, e.offset, e.pageShift < 64 ? 1ull << e.pageShift : 0});
  return regions;
}

}  // namespace faultline::shm
