#include "coordinator/shared_memory.h"

#include "coordinator/mappings.h"

namespace faultline::coordinator {

std::optional<std::string> whyNotSharedHuge(pid_t target, std::span<const shm::Region> regions) {
  bool huge = false;
  for (const shm::Region& region : regions) huge |= region.pageSize == shm::HUGE_PAGE;
  if (!huge) return std::nullopt;
  for (const Mapping& mapping : mappingsOf(target)) {
    if (!mapping.shared) continue;
    for (std::size_t i = 0; i < regions.size(); i++) {
      const shm::Region& region = regions[i];
      if (region.pageSize != shm::HUGE_PAGE || mapping.end <= region.base ||
          mapping.start >= region.base + region.size)
        continue;
      return "region " + std::to_string(i) +
             ": this is shared memory of 2 MiB pages, of which a target can give up parts of a page, and "
             "that cannot "
             "be followed: map it private, or use pages of 4096 bytes";
    }
  }
  return std::nullopt;
}

}  // namespace faultline::coordinator
