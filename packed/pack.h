// Packing an image, on all CPUs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "packed/frames.h"

namespace faultline::packed {

// A part of an image that is data.
struct DataRange {
  std::uint64_t offset, size;  // bytes
};

struct PackInput {
  int file;          // open for reading, borrowed
  std::string name;  // for messages
  std::uint64_t bytes;
  std::vector<DataRange> data;  // in order, apart from each other; all else is a hole
};

struct PackOptions {
  int level = USUAL_LEVEL;
  // Fingerprint of what a differential image lies over. Its holes are `below` then, its zeros its own. A
  // full image has both as zeros.
  std::optional<std::uint64_t> base;
};

struct PackSummary {
  std::uint64_t bytes = 0;            // size of the image
  std::uint64_t zero = 0, below = 0;  // of those
  std::uint64_t frames = 0;
  std::uint64_t fileBytes = 0;  // size of the packed file
};

// Content of a frame. A run of holes has larger ones.
inline constexpr std::uint32_t FRAME = 64u << 10;

// Writes `in` into the empty file `out`. Frames are of FRAME bytes; holes of 2 MiB are one frame each. `progress` is
// called, by one thread at a time, with the offset that has been reached; its exceptions end the work. Throws
// std::runtime_error where `in` cannot be read or `out` not be written. Waits for the files.
PackSummary pack(const PackInput& in, int out, const std::string& outName, const PackOptions& options,
                 const std::function<void(std::uint64_t offset)>& progress);

}  // namespace faultline::packed
