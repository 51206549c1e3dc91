// A checksum of a few places of a memory, by which two snapshots are told apart without reading them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace faultline::image {

inline constexpr std::uint64_t SAMPLE_BYTES = 4096, MOST_SAMPLES = 256;

// Offsets of the places, ascending, multiples of SAMPLE_BYTES: from the first block to the last at equal distances. `bytes`: of the
// memory.
std::vector<std::uint64_t> samplePlaces(std::uint64_t bytes);

// The checksum itself: CRC-64/XZ of what is added, in order. One thread.
class SampledChecksum {
 public:
  SampledChecksum();
  ~SampledChecksum();
  SampledChecksum(const SampledChecksum&) = delete;

  void add(std::span<const std::byte> block);
  // Adds it as 8 bytes, the lowest first.
  void add(std::uint64_t number);
  std::uint64_t value() const;

 private:
  struct Crc;
  const std::unique_ptr<Crc> crc_;
};

}  // namespace faultline::image
