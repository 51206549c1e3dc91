#include "image/fingerprint.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "image/sampled_checksum.h"

namespace faultline::image {

namespace {

void addBlock(SampledChecksum& sum, LayerContent& layer, std::uint64_t offset) {
  std::array<std::byte, SAMPLE_BYTES> room;
  const std::span<std::byte> data = std::span(room).first(std::min(SAMPLE_BYTES, layer.bytes() - offset));
  layer.read(offset, data);
  sum.add(data);
}

// Mostly holes: what is looked at is the data behind each place.
void addUpper(SampledChecksum& sum, LayerContent& layer) {
  std::uint64_t before = ~0ull;
  for (const std::uint64_t place : samplePlaces(layer.bytes())) {
    const std::uint64_t offset = layer.dataFrom(place);
    sum.add(offset);
    if (offset < layer.bytes() && std::exchange(before, offset) != offset) addBlock(sum, layer, offset);
  }
}

}  // namespace

std::uint64_t fingerprintOf(LayerContent& memory) {
  SampledChecksum sum;
  for (const std::uint64_t place : samplePlaces(memory.bytes())) addBlock(sum, memory, place);
  return sum.value();
}

std::uint64_t fingerprintOver(std::uint64_t base, std::span<const std::unique_ptr<LayerContent>> upper) {
  if (upper.empty()) return base;
  SampledChecksum sum;
  sum.add(base);
  for (std::size_t i = upper.size(); i-- > 0;) addUpper(sum, *upper[i]);
  return sum.value();
}

std::uint64_t fingerprintOf(std::span<const std::unique_ptr<LayerContent>> layers) {
  return fingerprintOver(fingerprintOf(*layers.back()), layers.first(layers.size() - 1));
}

std::string fingerprintText(std::uint64_t fingerprint) {
  char text[20];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(fingerprint));
  return text;
}

}  // namespace faultline::image
