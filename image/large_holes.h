// The large holes of a file, found without a look at each of its extents.
#pragma once

#include <cstdint>
#include <vector>

namespace faultline::image {

struct ByteRange {
  std::uint64_t offset, size;  // bytes

  std::uint64_t end() const { return offset + size; }
  bool operator==(const ByteRange&) const = default;
};

// The holes of the first `bytes` of a file that are of `least` bytes or more, in order. Beside smaller fragments the front
// of one may be left out, or all of it where less than `least` is left: at most some four questions are asked for each
// `least` bytes, however many extents there are. The space behind the file's end is no hole. Empty where the file cannot tell
// (a device, some file systems). `file`: borrowed; its position moves. Waits for the file system. Throws std::system_error
// where that fails. Any thread.
std::vector<ByteRange> largeHoles(int file, std::uint64_t bytes, std::uint64_t least);

// The ranges that are in both, in order, those below `least` bytes left out. Either list is in order, its ranges apart.
std::vector<ByteRange> inBoth(const std::vector<ByteRange>& one, const std::vector<ByteRange>& other,
                              std::uint64_t least);

}  // namespace faultline::image
