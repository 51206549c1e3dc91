#include "coordinator/shared_memory.h"

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>

namespace faultline::coordinator {

std::optional<std::string> whyNotSharedHuge(pid_t target, std::span<const shm::Region> regions) {
  bool huge = false;
  for (const shm::Region& region : regions) huge |= region.pageSize == shm::HUGE_PAGE;
  if (target <= 0 || !huge) return std::nullopt;
  std::ifstream maps("/proc/" + std::to_string(target) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uint64_t start = 0, end = 0;
    char rights[5] = "";
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, rights) != 3) continue;
    if (rights[3] != 's') continue;
    for (std::size_t i = 0; i < regions.size(); i++) {
      const shm::Region& region = regions[i];
      if (region.pageSize != shm::HUGE_PAGE || end <= region.base || start >= region.base + region.size)
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
