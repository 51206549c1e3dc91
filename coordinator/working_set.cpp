#include "coordinator/working_set.h"

#include <kj/debug.h>

#include <algorithm>

#include "process/content_size.h"
#include "process/duplicate.h"
#include "rpc/convert.h"
#include "rpc/fd.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

constexpr std::uint64_t MAX_PAGES_AN_ANSWER = 65536;

std::uint64_t smallestPage(const std::vector<shm::Region>& regions) {
  std::uint64_t smallest = shm::HUGE_PAGE;
  for (const shm::Region& region : regions) smallest = std::min(smallest, region.pageSize);
  return smallest;
}

// A region by where it lies in the source.
struct Part {
  std::uint64_t offset, end;  // in the source
  std::uint64_t pageSize;
  shm::PageIndex firstPage;
  std::uint64_t endsBefore = 0;  // the greatest end of the parts up to this one
};

std::vector<Part> partsOf(const std::vector<shm::Region>& regions) {
  std::vector<Part> parts;
  shm::PageIndex page = 0;
  for (const shm::Region& region : regions) {
    parts.push_back({region.offset, region.offset + region.size, region.pageSize, page});
    page += region.pages();
  }
  std::sort(parts.begin(), parts.end(), [](auto& a, auto& b) { return a.offset < b.offset; });
  std::uint64_t end = 0;
  for (Part& part : parts) part.endsBefore = end = std::max(end, part.end);
  return parts;
}

class RecordedWorkingSetServer final : public rpc::RecordedWorkingSet::Server {
 public:
  RecordedWorkingSetServer(std::shared_ptr<const TouchRecorder> recorder, std::vector<shm::Region> regions,
                           SourceFiles source)
      : recorder_(std::move(recorder)), regions_(std::move(regions)), source_(kj::mv(source)) {}

  kj::Promise<void> pages(PagesContext context) override {
    const std::uint64_t recorded = recorder_->recorded();
    const std::uint64_t from = std::min(context.getParams().getFirst(), recorded);
    const std::uint64_t count = std::min(recorded - from, MAX_PAGES_AN_ANSWER);
    auto results = context.getResults();
    auto list = results.initPages(static_cast<unsigned>(count));
    for (unsigned i = 0; i < count; i++) list.set(i, recorder_->at(from + i));
    results.setRecorded(recorded);
    results.setLost(recorder_->lost());
    return kj::READY_NOW;
  }

  kj::Promise<void> snapshot(SnapshotContext context) override {
    auto results = context.getResults();
    rpc::fill(results.initRegions(static_cast<unsigned>(regions_.size())), regions_);
    auto layers = results.initSource().initLayers(static_cast<unsigned>(source_.size()));
    for (unsigned i = 0; i < layers.size(); i++) {
      layers[i].setFile(rpc::makeFdFrom(source_[i].get()));
      layers[i].setPacked(source_[i].packed);
    }
    return kj::READY_NOW;
  }

 private:
  const std::shared_ptr<const TouchRecorder> recorder_;
  const std::vector<shm::Region> regions_;
  const SourceFiles source_;
};

}  // namespace

WorkingSet workingSetFrom(rpc::WorkingSet::Reader reader, int source) {
  // Ranges that no region covers are ignored, so that the set may be checked without.
  const std::uint64_t sourceBytes = source < 0 ? ~0ull : process::contentBytes(source).value_or(0);
  WorkingSet set;
  const auto list = reader.getRanges();
  if (list.size() > WorkingSet::MAX_RANGES)
    rpc::refuse(rpc::Reason::BAD_INPUT,
                "the working set has " + std::to_string(list.size()) + " ranges; 1048576 are taken");
  set.pageSize = reader.getPageSize();
  set.ranges.reserve(list.size());
  std::uint64_t left = sourceBytes;
  for (auto range : list) {
    const SourceRange part{range.getOffset(), range.getSize()};
    if (part.offset > sourceBytes || part.size > sourceBytes - part.offset)
      rpc::refuse(rpc::Reason::BAD_INPUT,
                  "the working set reaches past the end of the source: " + std::to_string(part.size) +
                      " bytes at " + std::to_string(part.offset) + " of " + std::to_string(sourceBytes));
    if (part.size > left)
      rpc::refuse(rpc::Reason::BAD_INPUT,
                  "the working set is larger than the source: it names a part of its " +
                      std::to_string(sourceBytes) + " bytes twice");
    left -= part.size;
    set.ranges.push_back(part);
  }
  return set;
}

std::optional<std::string> whyNotUsable(const WorkingSet& set, const std::vector<shm::Region>& regions,
                                        std::uint64_t sourceBytes) {
  std::uint64_t left = sourceBytes;
  for (const SourceRange& range : set.ranges) {
    if (range.offset > sourceBytes || range.size > sourceBytes - range.offset)
      return "it reaches past the end of the source's " + std::to_string(sourceBytes) + " bytes";
    if (range.size > left)
      return "it names a part of the source's " + std::to_string(sourceBytes) + " bytes twice";
    left -= range.size;
  }
  const std::uint64_t here = smallestPage(regions);
  if (set.ranges.empty() || set.pageSize == here) return std::nullopt;
  return "it was recorded with pages of " + std::to_string(set.pageSize) +
         " bytes, this target has pages of " + std::to_string(here) +
         ": record one with such a target, or leave it out";
}

std::vector<shm::PageRange> pagesOf(const WorkingSet& set, const std::vector<shm::Region>& regions) {
  const std::vector<Part> parts = partsOf(regions);
  std::vector<shm::PageRange> pages;
  for (const SourceRange& range : set.ranges) {
    const std::uint64_t end = range.offset + range.size;
    auto part = std::lower_bound(parts.begin(), parts.end(), end,
                                 [](const Part& p, std::uint64_t offset) { return p.offset < offset; });
    const auto before = static_cast<std::ptrdiff_t>(pages.size());
    // Several regions may be backed by the same bytes.
    while (part != parts.begin() && (part - 1)->endsBefore > range.offset) {
      --part;
      const std::uint64_t from = std::max(range.offset, part->offset), to = std::min(end, part->end);
      if (from >= to) continue;
      const std::uint64_t first = (from - part->offset) / part->pageSize;
      const std::uint64_t last = (to - part->offset - 1) / part->pageSize;
      pages.push_back({part->firstPage + first, last - first + 1});
    }
    std::reverse(pages.begin() + before, pages.end());
  }
  return pages;
}

rpc::RecordedWorkingSet::Client makeRecordedWorkingSet(std::shared_ptr<const TouchRecorder> recorder,
                                                       std::vector<shm::Region> regions,
                                                       const SourceFiles& source) {
  return kj::heap<RecordedWorkingSetServer>(std::move(recorder), std::move(regions), duplicates(source));
}

}  // namespace faultline::coordinator
