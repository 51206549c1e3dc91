// The data and the holes of a file, in order.
#pragma once

#include <cstdint>
#include <optional>

namespace faultline::image {

struct Extent {
  std::uint64_t offset, size;  // bytes
  bool hole;                   // else data, zeros included
};

// Walks a file from its beginning to its end: extents that touch each other, data and holes by turns. One thread.
// Waits for the file system.
class ExtentWalk {
 public:
  // `file`: borrowed; its position moves. `bytes`: how far to walk; what is behind the file's end is a hole.
  ExtentWalk(int file, std::uint64_t bytes) : file_(file), bytes_(bytes) {}

  // The next extent; empty at the end. What cannot tell its holes (a device, some file systems) is all data.
  // Throws std::runtime_error where the file system fails, or the file changes under the walk.
  std::optional<Extent> next();

 private:
  std::uint64_t find(int what) const;

  const int file_;
  const std::uint64_t bytes_;
  std::uint64_t at_ = 0;
  bool afterHole_ = false;
};

}  // namespace faultline::image
