#include "shard/resident_windows.h"

#include <algorithm>

namespace faultline::shard {

ResidentWindows::ResidentWindows(const Source& source, std::uint64_t bytes, std::size_t most)
    : source_(source),
      windows_(static_cast<std::uint32_t>(bytes / WINDOW)),
      asked_(windows_),
      mapped_(windows_),
      most_(std::min<std::size_t>(most, windows_)) {
  kept_.reserve(most_);
}

bool ResidentWindows::resident(std::uint64_t offset, std::uint64_t now) {
  const std::uint64_t window = offset / WINDOW;
  if (window >= windows_) return false;
  if (now - since_ > BELIEVED) {
    std::fill(mapped_.begin(), mapped_.end(), false);
    since_ = now;
  }
  if (mapped_[window]) return true;
  if (!asked_[window]) {
    asked_[window] = true;
    return false;
  }
  asked_[window] = false;  // where it is not to be had, every other fault tries
  if (!source_.mapIfCached(window * WINDOW, WINDOW)) return false;
  keep(static_cast<std::uint32_t>(window));
  return true;
}

void ResidentWindows::keep(std::uint32_t window) {
  mapped_[window] = true;
  if (kept_.size() < most_) {
    kept_.push_back(window);
    return;
  }
  std::uint32_t& oldest = kept_[oldest_];
  source_.release(oldest * WINDOW, WINDOW);
  mapped_[oldest] = false;
  oldest = window;
  oldest_ = (oldest_ + 1) % kept_.size();
}

}  // namespace faultline::shard
