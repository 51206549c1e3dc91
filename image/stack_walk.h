// The bytes that a stack of layers shows: a hole of one shows what is below it, and a hole of the lowest is zeros.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "image/extent_walk.h"
#include "image/stack.h"

namespace faultline::image {

// Calls `data` with each range of [0, `bytes`) that is data, and the file that has it, from the first byte to the last;
// `files`: the top one first. Ranges that are data in none of them are zeros. Throws as ExtentWalk does.
void walkStack(const std::vector<StackFile>& files, std::uint64_t bytes,
               const std::function<void(const StackFile&, const Extent&)>& data);

}  // namespace faultline::image
