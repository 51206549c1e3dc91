#include "image/sampled_checksum.h"

#include <algorithm>
#include <array>
#include <boost/crc.hpp>

namespace faultline::image {

struct SampledChecksum::Crc {
  boost::crc_optimal<64, 0x42F0E1EBA9EA3693, ~0ull, ~0ull, true, true> sum;
};

SampledChecksum::SampledChecksum() : crc_(std::make_unique<Crc>()) {}
SampledChecksum::~SampledChecksum() = default;

void SampledChecksum::add(std::span<const std::byte> block) {
  crc_->sum.process_bytes(block.data(), block.size());
}

void SampledChecksum::add(std::uint64_t number) {
  std::array<unsigned char, 8> bytes;
  for (unsigned char& byte : bytes) {
    byte = static_cast<unsigned char>(number);
    number >>= 8;
  }
  crc_->sum.process_bytes(bytes.data(), bytes.size());
}

std::uint64_t SampledChecksum::value() const {
  return crc_->sum.checksum();
}

std::vector<std::uint64_t> samplePlaces(std::uint64_t bytes) {
  const std::uint64_t blocks = bytes / SAMPLE_BYTES + (bytes % SAMPLE_BYTES != 0);
  const std::uint64_t samples = std::min(blocks, MOST_SAMPLES);
  std::vector<std::uint64_t> places;
  for (std::uint64_t i = 0; i < samples; i++) {
    // The product stays below 2^64: blocks < 2^52.
    const std::uint64_t block = samples == 1 ? 0 : i * (blocks - 1) / (samples - 1);
    places.push_back(block * SAMPLE_BYTES);
  }
  return places;
}

}  // namespace faultline::image
