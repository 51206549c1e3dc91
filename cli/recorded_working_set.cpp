#include "cli/recorded_working_set.h"

#include <kj/debug.h>

#include <algorithm>

#include "cli/format.h"
#include "cli/snapshot_identity.h"
#include "rpc/convert.h"
#include "rpc/fd.h"
#include "shmtracker/region_table.h"

namespace faultline::cli {

namespace {

// Collects pages in order, as parts of the source.
class Collector {
 public:
  Collector(const std::vector<shm::Region>& regions, WorkingSet& set)
      : set_(set), entries_(regions.size()), table_(entries_), taken_(blocks(set.snapshot.bytes)) {
    shm::RegionTable::build(regions, entries_);
    pages_ = shm::RegionTable::pagesOf(regions);
  }

  void add(std::uint64_t page) {
    KJ_REQUIRE(page < pages_, "the server names a page that its restore does not have", page, pages_);
    const auto at = table_.locate(page);
    // Regions may share bytes of the source: those are wanted once.
    const auto first = taken_.begin() + static_cast<std::ptrdiff_t>(at.offset / shm::SMALL_PAGE);
    const auto end = first + static_cast<std::ptrdiff_t>(at.pageSize / shm::SMALL_PAGE);
    if (std::find(first, end, true) != end) return;
    std::fill(first, end, true);
    auto& ranges = set_.ranges;
    if (!ranges.empty() && ranges.back().end() == at.offset)
      ranges.back().size += at.pageSize;
    else
      ranges.push_back({at.offset, at.pageSize});
  }

 private:
  static std::size_t blocks(std::uint64_t bytes) { return bytes / shm::SMALL_PAGE + 1; }

  WorkingSet& set_;
  std::vector<shm::RegionEntry> entries_;
  const shm::RegionTable table_;
  std::uint64_t pages_ = 0;
  std::vector<bool> taken_;  // blocks of the source
};

}  // namespace

WorkingSet fetchWorkingSet(Session& session, rpc::RecordedWorkingSet::Client recorded) {
  auto snapshot = session.wait(recorded.snapshotRequest().send());
  const auto regions = rpc::regionsFrom(snapshot.getRegions());
  std::vector<kj::AutoCloseFd> layers;
  for (auto layer : snapshot.getSource().getLayers())
    layers.push_back(session.wait(rpc::requireFd(layer.getFile(), "source")));
  KJ_REQUIRE(!layers.empty(), "the server names no file of its snapshot");
  WorkingSet set;
  set.snapshot = identityOf(layers);
  const auto why = shm::whyNotServable(regions, set.snapshot.bytes);
  KJ_REQUIRE(!why.has_value(), "the recording does not fit its snapshot; was the memory file truncated?",
             why->c_str());
  set.pageSize = shm::HUGE_PAGE;
  for (const shm::Region& region : regions) set.pageSize = std::min(set.pageSize, region.pageSize);
  Collector collector(regions, set);
  for (std::uint64_t from = 0;;) {
    auto request = recorded.pagesRequest();
    request.setFirst(from);
    auto response = session.wait(request.send());
    for (const std::uint64_t page : response.getPages()) collector.add(page);
    from += response.getPages().size();
    set.lost = response.getLost();
    if (response.getPages().size() == 0 || from >= response.getRecorded()) break;
  }
  return set;
}

std::string describe(const WorkingSet& set) {
  std::string text = std::to_string(set.bytes() / set.pageSize) + " pages (" + humanBytes(set.bytes()) +
                     ") in " + std::to_string(set.ranges.size()) + " runs";
  if (set.lost > 0) text += ", " + std::to_string(set.lost) + " later ones had no room";
  return text;
}

}  // namespace faultline::cli
