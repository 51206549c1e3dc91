#include "coordinator/page_runs.h"

#include <algorithm>

namespace faultline::coordinator {

std::vector<Run<shm::PageState>> stateRuns(const shm::PageTable& pages, shm::PageRange range) {
  range.count = std::min(range.count, MAX_PAGES);
  std::vector<Run<shm::PageState>> runs;
  for (shm::PageIndex page = range.first; page < range.end() && runs.size() < MAX_RUNS;) {
    const shm::PageState state = pages.state(page);
    // At least this page, should its state have changed meanwhile.
    const std::uint64_t length = std::max<std::uint64_t>(1, pages.runLength(page, range.end() - page));
    runs.push_back({{page, length}, state});
    page += length;
  }
  return runs;
}

std::vector<Run<std::uint32_t>> ownerRuns(const shm::Segment& segment, shm::PageRange range) {
  range.count = std::min(range.count, MAX_PAGES);
  std::vector<Run<std::uint32_t>> runs;
  const shm::RegionTable regions = segment.regions();
  for (shm::PageIndex page = range.first; page < range.end() && runs.size() < MAX_RUNS;) {
    const shm::PageIndex end = std::min(regions.pagesOfExtent(regions.extentOf(page)).end(), range.end());
    const std::uint32_t shard = segment.ownerOf(page);
    if (!runs.empty() && runs.back().value == shard)
      runs.back().range.count += end - page;
    else
      runs.push_back({{page, end - page}, shard});
    page = end;
  }
  return runs;
}

}  // namespace faultline::coordinator
