// The memory file that measurements restore.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::bench {

// `dataBytes` of content, then a hole.
struct BenchImage {
  std::string path;
  std::uint64_t dataBytes;
};

// The first 8 bytes of the page at `offset`, never 0, so that each page can be told from every other.
inline std::uint64_t imageWord(std::uint64_t offset) {
  return (offset + 1) * 0x9e3779b97f4a7c15ull | 1;
}

// Writes `dataBytes` of content and a hole of `holeBytes` behind it. Throws std::runtime_error.
BenchImage makeImage(const std::string& path, std::uint64_t dataBytes, std::uint64_t holeBytes);

// Reads the first `bytes` of the content once: machines that reclaim early have dropped some of it meanwhile.
void makeWarm(const BenchImage& image, std::uint64_t bytes);
inline void makeWarm(const BenchImage& image) {
  makeWarm(image, image.dataBytes);
}

// Drops the file from the page cache. Throws where some of it stays (a tmpfs has nowhere else to keep it).
void makeCold(const BenchImage& image);

}  // namespace faultline::bench
