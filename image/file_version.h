// Whether a file has been written since it was looked at.
#pragma once

#include <cstdint>

namespace faultline::image {

// What writing to a file changes, as the file system notes it: its clock may be as coarse as some milliseconds. Of a
// block device it tells nothing.
struct FileVersion {
  // Asks the server of a network file system. Throws std::system_error where `file` cannot be looked at. Any thread.
  static FileVersion of(int file);
  bool operator==(const FileVersion&) const = default;

  std::uint64_t size = 0;
  std::int64_t modifiedNs = 0, changedNs = 0;
};

}  // namespace faultline::image
