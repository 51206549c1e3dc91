#include "image/large_holes.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "image/extent_walk.h"

namespace faultline::image {

namespace {

std::uint64_t roundUp(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

// A hole of `least` bytes or more has a multiple of `least` in it. After a smaller one it is enough to go on at the next
// multiple.
std::vector<ByteRange> largeHoles(int file, std::uint64_t bytes, std::uint64_t least) {
  const off_t size = lseek(file, 0, SEEK_END);
  if (size < 0) {
    if (errno == ESPIPE || errno == EINVAL) return {};
    throw std::system_error(errno, std::generic_category(), "looking for holes");
  }
  const std::uint64_t end = std::min(bytes, static_cast<std::uint64_t>(size));
  std::vector<ByteRange> holes;
  for (std::uint64_t at = 0; at < end;) {
    const std::uint64_t data = seekExtent(file, at, end, SEEK_DATA);
    const bool large = data - at >= least;
    if (large) holes.push_back({at, data - at});
    const std::uint64_t next =
        seekExtent(file, large || data == at ? data : roundUp(data, least), end, SEEK_HOLE);
    at = std::max(next, at + 1);  // a file that changes meanwhile may tell one thing and another
  }
  return holes;
}

std::vector<ByteRange> inBoth(const std::vector<ByteRange>& one, const std::vector<ByteRange>& other,
                              std::uint64_t least) {
  std::vector<ByteRange> both;
  for (std::size_t i = 0, j = 0; i < one.size() && j < other.size();) {
    const std::uint64_t begin = std::max(one[i].offset, other[j].offset);
    const std::uint64_t end = std::min(one[i].end(), other[j].end());
    if (begin < end && end - begin >= least) both.push_back({begin, end - begin});
    (one[i].end() < other[j].end() ? i : j)++;
  }
  return both;
}

}  // namespace faultline::image
