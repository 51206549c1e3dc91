#include "rpc/origins.h"

#include <algorithm>

namespace faultline::rpc {

Origins originsOf(RestoreInfo::Reader info, RestoreStats::Reader stats) {
  std::uint64_t populated = 0, around = 0, background = 0, size = 0;
  for (auto shard : stats.getShards()) {
    populated += shard.getCopied() + shard.getZeroed();
    around += shard.getAround();
    background += shard.getPrefaulted();
  }
  for (auto region : info.getRegions()) size += region.getSize();
  const std::uint64_t page = info.getPages() == 0 ? 0 : size / info.getPages();
  return {(populated - std::min(populated, around + background)) * page, around * page, background * page};
}

}  // namespace faultline::rpc
