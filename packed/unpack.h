// Unpacking an image, on all CPUs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "packed/image.h"

namespace faultline::packed {

// Writes what `image` has into the empty file `out`, of the same size then: of a full image pages of zeros are holes, of
// a differential one what is below. Every frame is unpacked and checked, those of holes too. `progress` as in pack().
// Returns the bytes that are data.
//
// Throws Damaged where a frame is, or is no hole where the map says that it is; std::runtime_error where a file cannot be
// read or written. Waits for the files.
std::uint64_t unpack(const Image& image, int out, const std::string& outName,
                     const std::function<void(std::uint64_t offset)>& progress);

// Reads and checks every frame as unpack() does, and writes nothing.
void check(const Image& image, const std::function<void(std::uint64_t offset)>& progress);

}  // namespace faultline::packed
