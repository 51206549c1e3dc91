// Needs of a service on this machine, found out one by one, before there is one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace faultline::cli {

struct Finding {
  enum class State {
    ok,
    degraded,  // a service runs, without what `text` says
    missing,   // none runs, or not as many restores as are planned: `text` says the way out
  };
  std::string what;  // a word, the same in each version
  State state = State::ok;
  std::string text;  // for people
};

struct Plan {
  std::uint64_t restores = 1;        // at the same time, each with a socket of its own
  std::uint64_t bytes = 1ull << 30;  // memory of each
  std::uint64_t shards = 2;
  std::string unit = "faultline.service";  // the systemd unit that is to run it
  std::vector<std::string> layers;         // of a memory file that is looked at as well, the top one first
};

// Outcome of a plan.
struct Needs {
  std::uint64_t lockedBytes, files, storedFds;
};
Needs needsOf(const Plan& plan);

// Tries each thing in this process, or asks systemd. Nothing of it is left.
std::vector<Finding> preflight(const Plan& plan);

const char* nameOf(Finding::State state);

}  // namespace faultline::cli
