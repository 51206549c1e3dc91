// The data and the holes of a file, in order.
#pragma once

#include <cstdint>
#include <optional>

namespace faultline::image {

struct Extent {
  std::uint64_t offset, size;  // bytes
  bool hole;                   // else data, zeros included

  std::uint64_t end() const { return offset + size; }
};

// Walks a range of a file from its beginning to its end: extents that touch each other, data and holes by turns. One
// thread. Waits for the file system.
class ExtentWalk {
 public:
  // `file`: borrowed; its position moves. `begin`, `end`: bytes; what is behind the file's end is a hole.
  ExtentWalk(int file, std::uint64_t begin, std::uint64_t end) : file_(file), end_(end), at_(begin) {}

  // The next extent; empty at the end. A file that cannot tell its holes (a device, some file systems) is all data.
  // Throws std::runtime_error where the file system fails, or the file changes under the walk.
  std::optional<Extent> next();

 private:
  std::uint64_t find(int what) const;

  const int file_;
  const std::uint64_t end_;
  std::uint64_t at_;
  bool afterHole_ = false;
};

}  // namespace faultline::image
