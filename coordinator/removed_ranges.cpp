#include "coordinator/removed_ranges.h"

#include <algorithm>

namespace faultline::coordinator {

std::span<const AddressRange> RemovedRanges::merged() {
  std::sort(ranges_.begin(), ranges_.end(),
            [](const AddressRange& a, const AddressRange& b) { return a.start < b.start; });
  std::size_t kept = 0;
  for (const AddressRange& range : ranges_) {
    if (kept > 0 && range.start <= ranges_[kept - 1].end)
      ranges_[kept - 1].end = std::max(ranges_[kept - 1].end, range.end);
    else
      ranges_[kept++] = range;
  }
  ranges_.resize(kept);
  return ranges_;
}

}  // namespace faultline::coordinator
