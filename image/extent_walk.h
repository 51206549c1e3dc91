// The data and the holes of a file, in order.
#pragma once

#include <cstdint>
#include <optional>

namespace faultline::image {

struct Extent {
  std::uint64_t offset, size;  // bytes
  bool hole;                   // false: data, zeros included

  std::uint64_t end() const { return offset + size; }
};

// The first offset from `at` on that is in data (SEEK_DATA) or a hole (SEEK_HOLE); `end` where none is before. A file that cannot
// tell its holes (a device, some file systems) is all data. Its position moves. Throws std::system_error where the file system
// fails. Waits for it.
std::uint64_t seekExtent(int file, std::uint64_t at, std::uint64_t end, int whence);

// Walks a range of a file from its beginning to its end: extents that touch each other, data and holes by turns. One
// thread. Waits for the file system.
class ExtentWalk {
 public:
  // `file`: borrowed; its position moves. `begin`, `end`: bytes; what is behind the file's end is a hole.
  ExtentWalk(int file, std::uint64_t begin, std::uint64_t end) : file_(file), end_(end), at_(begin) {}

  // The next extent; empty at the end. Throws as seekExtent(), and std::runtime_error where the file changes under the walk.
  std::optional<Extent> next();

 private:
  const int file_;
  const std::uint64_t end_;
  std::uint64_t at_;
  bool afterHole_ = false;
};

}  // namespace faultline::image
