// The memory file that measurements restore.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::bench {

// The 8 bytes of content at `offset`, never 0, so that each page can be told from every other.
inline std::uint64_t imageWord(std::uint64_t offset) {
  return (offset + 1) * 0x9e3779b97f4a7c15ull | 1;
}

// `dataBytes` of content, then a hole. With `stripe`, the content is interrupted by holes: so many bytes of
// content, so many of none, from the beginning on.
struct BenchImage {
  struct Stripe {
    std::uint64_t data = 0, hole = 0;  // 0, 0: no such holes
  };

  std::string path;
  std::uint64_t dataBytes = 0;
  Stripe stripe = {};

  // The 8 bytes at `offset`, a multiple of 8.
  std::uint64_t word(std::uint64_t offset) const {
    const bool none =
        offset >= dataBytes || (stripe.hole != 0 && offset % (stripe.data + stripe.hole) >= stripe.data);
    return none ? 0 : imageWord(offset);
  }
};

// Writes `dataBytes` of content and a hole of `holeBytes` behind it. Throws std::runtime_error.
BenchImage makeImage(const std::string& path, std::uint64_t dataBytes, std::uint64_t holeBytes);

// Makes an image without a hole behind it, but striped. Throws where the file system has no holes.
BenchImage makeStripedImage(const std::string& path, std::uint64_t bytes, const BenchImage::Stripe& stripe);

// Reads the first `bytes` of the content once: machines that reclaim early have dropped some of it meanwhile.
void makeWarm(const BenchImage& image, std::uint64_t bytes);
inline void makeWarm(const BenchImage& image) {
  makeWarm(image, image.dataBytes);
}

// Drops the file from the page cache. Throws where some of it stays (a tmpfs has nowhere else to keep it).
void makeCold(const BenchImage& image);

}  // namespace faultline::bench
