// How many bytes a snapshot's memory has, and how many of them a file takes.
#pragma once

#include <cstdint>
#include <optional>

namespace faultline::process {

// Bytes of a regular file or of a block device, of which fstat(2) says 0. Empty: `fd` is neither, or its size
// cannot be told (errno). May wait for the file system.
std::optional<std::uint64_t> contentBytes(int fd);

// Bytes of the disk that a file takes; 0 where that is not told. May wait for the file system.
std::uint64_t bytesOnDisk(int fd);

}  // namespace faultline::process
