// Reading and writing of a file at an offset, whole or with an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace faultline::packed {

// Fills `to` from `offset` on. Throws std::system_error, naming the file and the offset, where that fails; with EIO
// where the file ends before. Waits for the file. Any thread.
void readAt(int file, const std::string& name, std::uint64_t offset, std::span<std::byte> to);

// Writes all of `bytes` from `offset` on. Throws as readAt() does.
void writeAt(int file, const std::string& name, std::uint64_t offset, std::span<const std::byte> bytes);

}  // namespace faultline::packed
