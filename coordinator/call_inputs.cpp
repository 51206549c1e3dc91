#include "coordinator/call_inputs.h"

#include <kj/debug.h>

#include <algorithm>

#include "shmtracker/layout.h"

namespace faultline::coordinator {

namespace {

constexpr std::size_t MAX_NAME = 50, MAX_DIRECTORY = 500;  // bytes

bool printable(char c) {
  return static_cast<unsigned char>(c) > ' ' && c != '\x7f';
}

}  // namespace

void requireName(const std::string& name) {
  KJ_REQUIRE(!name.empty() && name.size() <= MAX_NAME && name.find_first_of(".:/") == std::string::npos &&
                 std::all_of(name.begin(), name.end(), printable),
             "a name has 1 to 50 characters, none of them '.', ':', '/' or blank: choose another",
             name.c_str());
}

void requireShards(std::uint32_t shards) {
  static_assert(shm::MAX_SHARDS == 64);
  KJ_REQUIRE(shards >= 1 && shards <= shm::MAX_SHARDS, "a restore can have 1 to 64 shards", shards);
}

void requireBuildDirectory(const std::string& directory) {
  KJ_REQUIRE(directory.size() <= MAX_DIRECTORY && !directory.empty() && directory.front() == '/',
             "an upgrade takes the absolute path of a directory, of at most 500 bytes", directory);
}

}  // namespace faultline::coordinator
