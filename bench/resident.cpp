#include "bench/resident.h"

#include <fstream>
#include <map>
#include <stdexcept>
#include <string>

namespace faultline::bench {

Resident residentOf(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  std::map<std::string, std::uint64_t> bytes;
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmRSS:") || line.starts_with("Rss")) {
      const auto colon = line.find(':');
      bytes[line.substr(0, colon)] = std::stoull(line.substr(colon + 1)) << 10;
    }
  if (bytes.empty()) throw std::runtime_error("no such process: " + std::to_string(process));
  return {bytes["VmRSS"], bytes["RssAnon"], bytes["RssFile"], bytes["RssShmem"]};
}

}  // namespace faultline::bench
