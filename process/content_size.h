// How many bytes a snapshot's memory has.
#pragma once

#include <cstdint>
#include <optional>

namespace faultline::process {

// Bytes of a regular file or of a block device, of which fstat(2) says 0. Empty: `fd` is neither, or its size
// cannot be told (errno). May wait for the file system.
std::optional<std::uint64_t> contentBytes(int fd);

}  // namespace faultline::process
