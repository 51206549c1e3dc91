// Reading a range of an image piece by piece, in few large reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "image/extent_walk.h"
#include "image/stack.h"

namespace faultline::image {

// Reads `range` of the file and calls `piece` with each piece, in order: where it is in the file, and its bytes, which
// are valid during the call. A piece has at most 1 MiB; all but the last have whole pages of 4096 bytes. Throws
// std::runtime_error with name, offset and reason where that fails or the file ends before. Waits for the file.
void readData(const StackFile& layer, const Extent& range,
              const std::function<void(std::uint64_t offset, std::span<const std::byte> bytes)>& piece);

// Whether all of them are 0.
bool isZero(std::span<const std::byte> bytes);

}  // namespace faultline::image
