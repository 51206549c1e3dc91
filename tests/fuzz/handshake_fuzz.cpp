// A handshake's body: refused with a message, or regions that a region table can be made of.

#include <cstdint>
#include <string_view>

#include "coordinator/handshake.h"
#include "shmtracker/region_table.h"
#include "tests/fuzz/require.h"

using namespace faultline;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  constexpr std::uint64_t SOURCE = 1ull << 40;
  std::vector<shm::Region> regions;
  try {
    regions = coordinator::parseRegions({reinterpret_cast<const char*>(bytes), size}).regions;
  } catch (const coordinator::HandshakeError& error) {
    fuzz::require(error.what()[0] != '\0', "a refusal says why");
    return 0;
  }
  if (shm::whyNotServable(regions, SOURCE).has_value()) return 0;
  std::vector<shm::RegionEntry> entries(regions.size());
  shm::RegionTable::build(regions, entries);
  const shm::RegionTable table(entries);
  for (const shm::Region& region : regions) {
    const auto first = table.pageAt(region.base), last = table.pageAt(region.base + region.size - 1);
    fuzz::require(first.has_value() && last.has_value(), "a region's ends are pages");
    fuzz::require(table.locate(*first).offset == region.offset, "an address leads to its offset");
    fuzz::require(table.locate(*last).offset + region.pageSize <= SOURCE,
                  "no offset reaches past the source");
  }
  return 0;
}
