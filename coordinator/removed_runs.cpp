#include "coordinator/removed_runs.h"

#include <algorithm>
#include <utility>

#include "failpoints/mistakes.h"

namespace faultline::coordinator {

using failpoints::made;
using failpoints::Mistake;

void RemovedRuns::add(const shm::PageRange& removed) {
  shm::PageRange run = removed;
  const shm::PageIndex least = run.first - std::min(run.first, least_);
  while (run.first > least && (isRemoved(run.first - 1) || made(Mistake::releasesBeside))) {
    run.first--;
    run.count++;
  }
  const shm::PageIndex most = std::min(run.end() + least_, pages_.pageCount());
  while (run.end() < most && (isRemoved(run.end()) || made(Mistake::releasesBeside))) run.count++;
  if (run.count >= least_) collect(run);
}

shm::PageIndex RemovedRuns::look(shm::PageIndex from, std::uint64_t count) {
  const shm::PageIndex end = std::min(from + count, pages_.pageCount());
  while (from < end) {
    from = pages_.find({from, end - from}, shm::PageState::removed);
    if (from == end) break;
    const shm::PageRange run{from, pages_.runLength(from, pages_.pageCount() - from)};
    if (run.count >= least_) collect(run);
    from = run.end();
  }
  return from;
}

// The one before it often grows: each page that a balloon gives up makes the run before longer.
void RemovedRuns::collect(const shm::PageRange& run) {
  if (!runs_.empty() && runs_.back().first <= run.end() && run.first <= runs_.back().end()) {
    shm::PageRange& last = runs_.back();
    const shm::PageIndex end = std::max(last.end(), run.end());
    last.first = std::min(last.first, run.first);
    last.count = end - last.first;
  } else if (runs_.size() < MOST) {
    runs_.push_back(run);
  }
}

std::vector<shm::PageRange> RemovedRuns::take() {
  std::vector<shm::PageRange> runs = std::exchange(runs_, {});
  std::sort(runs.begin(), runs.end(),
            [](const shm::PageRange& a, const shm::PageRange& b) { return a.first < b.first; });
  for (const shm::PageRange& run : runs) collect(run);
  return std::exchange(runs_, {});
}

}  // namespace faultline::coordinator
