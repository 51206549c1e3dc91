#include "coordinator/mappings.h"

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>

namespace faultline::coordinator {

// proc(5): "START-END RIGHTS OFFSET DEVICE INODE ...", the last of the four rights is p (private) or s (shared), the inode 0
// where there is no file.
std::vector<Mapping> mappingsOf(pid_t pid) {
  std::vector<Mapping> mappings;
  if (pid <= 0) return mappings;
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    Mapping mapping;
    char rights[5] = "";
    std::uint64_t inode = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %" SCNu64, &mapping.start,
                    &mapping.end, rights, &inode) != 4)
      continue;
    mapping.shared = rights[3] == 's';
    mapping.anonymous = inode == 0;
    mappings.push_back(mapping);
  }
  return mappings;
}

}  // namespace faultline::coordinator
