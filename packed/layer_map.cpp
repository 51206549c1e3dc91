#include "packed/layer_map.h"

#include <algorithm>

namespace faultline::packed {

void LayerMap::append(std::uint64_t bytes, Kind kind) {
  if (bytes == 0) return;
  if (runs_.empty() || runs_.back().kind != kind) runs_.push_back({bytes_, kind});
  bytes_ += bytes;
}

std::uint64_t LayerMap::bytesOf(Kind kind) const {
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < runs_.size(); i++)
    if (runs_[i].kind == kind) bytes += endOf(i) - runs_[i].begin;
  return bytes;
}

std::size_t LayerMap::runAt(std::uint64_t offset) const {
  const auto after = std::upper_bound(runs_.begin(), runs_.end(), offset,
                                      [](std::uint64_t value, const Run& run) { return value < run.begin; });
  return static_cast<std::size_t>(after - runs_.begin()) - 1;
}

void LayerMap::forEach(std::uint64_t begin, std::uint64_t end,
                       const std::function<void(const Extent&)>& use) const {
  for (std::size_t run = begin < end ? runAt(begin) : 0; begin < end; run++) {
    const std::uint64_t stop = std::min(endOf(run), end);
    use({begin, stop - begin, runs_[run].kind});
    begin = stop;
  }
}

bool LayerMap::isAll(std::uint64_t begin, std::uint64_t end, Kind kind) const {
  const std::size_t run = runAt(begin);
  return runs_[run].kind == kind && endOf(run) >= end;
}

std::uint64_t LayerMap::nextOtherThan(Kind kind, std::uint64_t offset) const {
  if (offset >= bytes_) return bytes_;
  const std::size_t run = runAt(offset);
  return runs_[run].kind == kind ? endOf(run) : offset;  // the next run is of another kind
}

}  // namespace faultline::packed
