#include "coordinator/call_inputs.h"

#include <algorithm>

#include "process/plain_text.h"
#include "rpc/convert.h"
#include "rpc/refusal.h"
#include "shmtracker/layout.h"

namespace faultline::coordinator {

namespace {

constexpr unsigned MAX_PREFAULT_RANGES = 65536;
constexpr std::size_t MAX_DIRECTORY = 500, MAX_SOURCE_NAME = 4096, MAX_SAID = 900;  // bytes

}  // namespace

void requireName(const std::string& name) {
  if (!process::isRestoreName(name))
    rpc::refuse(rpc::Reason::BAD_INPUT, std::string(process::RESTORE_NAME_RULE) + ": choose another");
}

void requireSourceName(capnp::Text::Reader name) {
  if (name.size() > MAX_SOURCE_NAME)
    rpc::refuse(rpc::Reason::BAD_INPUT, "the source's name has " + std::to_string(name.size()) +
                                            " bytes; 4096 are taken, as of a path");
}

std::vector<shm::Region> regionsFromCall(capnp::List<rpc::Region>::Reader list) {
  if (list.size() > shm::MAX_REGIONS)
    rpc::refuse(rpc::Reason::BAD_TARGET, std::to_string(list.size()) + " regions are given; at most " +
                                             std::to_string(shm::MAX_REGIONS) + " are served");
  return rpc::regionsFrom(list);
}

std::string saidByShard(capnp::Text::Reader text) {
  return {text.begin(), std::min(text.size(), MAX_SAID)};
}

void requireShards(std::uint32_t shards) {
  static_assert(shm::MAX_SHARDS == 64);
  if (shards < 1 || shards > shm::MAX_SHARDS)
    rpc::refuse(rpc::Reason::BAD_INPUT, "a restore can have 1 to 64 shards, not " + std::to_string(shards));
}

std::vector<shm::PageRange> prefaultRangesFrom(capnp::List<rpc::PageRange>::Reader list,
                                               std::uint64_t pages) {
  if (list.size() > MAX_PREFAULT_RANGES)
    rpc::refuse(rpc::Reason::BAD_INPUT,
                std::to_string(list.size()) + " ranges to populate; 65536 are taken at once");
  auto ranges = rpc::rangesFrom(list, pages);
  std::uint64_t left = pages;
  for (const shm::PageRange range : ranges) {
    if (range.count > left)
      rpc::refuse(rpc::Reason::BAD_INPUT,
                  "the ranges to populate name a page twice: together they have more than the " +
                      std::to_string(pages) + " pages of the restore");
    left -= range.count;
  }
  return ranges;
}

void requireBuildDirectory(const std::string& directory) {
  if (directory.empty() || directory.size() > MAX_DIRECTORY || directory.front() != '/')
    rpc::refuse(rpc::Reason::BAD_INPUT,
                "an upgrade takes the absolute path of a directory, of at most 500 bytes");
}

}  // namespace faultline::coordinator
