// A single file with the bytes that a stack of layers shows.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "image/new_file.h"
#include "image/stack.h"

namespace faultline::image {

// Writes what `layers` show, the upper ones first, into `out`, and publishes it: pages of zeros are holes. Bytes are
// shared with a layer where its file system and that of `out` can do so (reflink). `bytes`: of each layer. `progress`
// is called with the offset that has been reached; its exceptions end the work. Returns the bytes that are data.
//
// Throws std::runtime_error where a layer cannot be read or has changed meanwhile, or `out` cannot be written; nothing
// is left then. The caller has looked whether `layers` are a stack (whyNotStack). Waits for the file systems.
std::uint64_t flatten(const std::vector<StackFile>& layers, std::uint64_t bytes, NewFile& out,
                      const std::function<void(std::uint64_t offset)>& progress);

}  // namespace faultline::image
