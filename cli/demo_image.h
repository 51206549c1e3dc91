// A memory image as guests have it: real programs and libraries, zero areas, and areas that do not compress.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace faultline::cli {

struct DemoImage {
  std::uint64_t pages = 0;
  std::uint64_t fromFiles = 0;  // pages of real bytes found on this machine
  std::uint64_t zeros = 0;      // written zeros
  std::uint64_t holes = 0;      // never written
  std::uint64_t random = 0;     // incompressible
};

// Writes an image of `bytes` bytes (a multiple of 2 MiB) to `path`. Machine and seed determine the image.
// Throws std::runtime_error naming the path and what is missing. `progress`: pages written so far.
DemoImage makeDemoImage(const std::string& path, std::uint64_t bytes, std::uint64_t seed,
                        const std::function<void(std::uint64_t)>& progress);

}  // namespace faultline::cli
