#include "bench/huge_pages.h"

#include <fstream>
#include <string>

namespace faultline::bench {

std::uint64_t freeHugePages() {
  std::ifstream info("/proc/meminfo");
  for (std::string key; info >> key;)
    if (std::uint64_t count = 0; key == "HugePages_Free:" && info >> count) return count;
  return 0;
}

}  // namespace faultline::bench
