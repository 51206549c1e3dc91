#include "image/extent_walk.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace faultline::image {

// SEEK_DATA or SEEK_HOLE from where the walk is.
std::uint64_t ExtentWalk::find(int what) const {
  const off_t found = lseek(file_, static_cast<off_t>(at_), what);
  if (found >= 0) return std::clamp(static_cast<std::uint64_t>(found), at_, end_);
  if (errno == ENXIO) return end_;  // the file ends before, or has no more data
  if (errno == EINVAL || errno == EOPNOTSUPP) return what == SEEK_DATA ? at_ : end_;
  throw std::system_error(errno, std::generic_category(), "looking for holes");
}

std::optional<Extent> ExtentWalk::next() {
  if (at_ >= end_) return std::nullopt;
  const std::uint64_t begin = at_;
  if (!afterHole_) {
    at_ = find(SEEK_DATA);
    afterHole_ = at_ > begin;
    if (afterHole_) return Extent{begin, at_ - begin, true};
  }
  afterHole_ = false;
  at_ = find(SEEK_HOLE);
  if (at_ == begin) throw std::runtime_error("its holes change while they are looked up");
  return Extent{begin, at_ - begin, false};
}

}  // namespace faultline::image
