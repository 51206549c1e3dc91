// A way to a real NBD server by which some reads do not come through: tests/nbd/killing_proxy.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/nbd/nbd_server.h"

namespace faultline::test {

// What becomes of reads that do not come through: their connection ends, or they get no answer.
enum class Bad { end, hold };

// The command of an NbdServer that passes on to `server`, but for reads that begin in [begin, end). `file`: where one is named,
// reads are held while it is there.
inline std::vector<std::string> wayTo(const NbdServer& server, std::uint64_t begin = 0, std::uint64_t end = 0,
                                      Bad bad = Bad::end, const std::string& file = "") {
  const std::string proxy = NBD_TESTS "/killing_proxy.py";
  std::vector<std::string> command{"python3",          proxy, "{}", server.socket(), std::to_string(begin),
                                   std::to_string(end)};
  if (bad == Bad::hold) command.emplace_back("hold");
  if (!file.empty()) command.push_back(file);
  return command;
}

}  // namespace faultline::test
