#include "image/extent_walk.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace faultline::image {

std::uint64_t seekExtent(int file, std::uint64_t at, std::uint64_t end, int whence) {
  if (at >= end) return end;
  const off_t found = lseek(file, static_cast<off_t>(at), whence);
  if (found >= 0) return std::clamp(static_cast<std::uint64_t>(found), at, end);
  if (errno == ENXIO) return end;  // the file ends before, or has no more data
  if (errno == EINVAL || errno == EOPNOTSUPP) return whence == SEEK_DATA ? at : end;
  throw std::system_error(errno, std::generic_category(), "looking for holes");
}

std::optional<Extent> ExtentWalk::next() {
  if (at_ >= end_) return std::nullopt;
  const std::uint64_t begin = at_;
  if (!afterHole_) {
    at_ = seekExtent(file_, at_, end_, SEEK_DATA);
    afterHole_ = at_ > begin;
    if (afterHole_) return Extent{begin, at_ - begin, true};
  }
  afterHole_ = false;
  at_ = seekExtent(file_, at_, end_, SEEK_HOLE);
  if (at_ == begin) throw std::runtime_error("its holes change while they are looked up");
  return Extent{begin, at_ - begin, false};
}

}  // namespace faultline::image
