#include "cli/snapshot_identity.h"

#include <algorithm>
#include <array>
#include <boost/crc.hpp>
#include <cstdio>
#include <span>
#include <utility>

#include "cli/layer_content.h"
#include "cli/packed_file.h"
#include "process/duplicate.h"

namespace faultline::cli {

namespace {

constexpr std::uint64_t BLOCK = 4096, SAMPLES = 256;

// CRC-64/XZ.
using Crc = boost::crc_optimal<64, 0x42F0E1EBA9EA3693, ~0ull, ~0ull, true, true>;

void addBlock(Crc& crc, LayerContent& layer, std::uint64_t offset) {
  std::array<std::byte, BLOCK> room;
  const std::span<std::byte> data = std::span(room).first(std::min(BLOCK, layer.bytes() - offset));
  layer.read(offset, data);
  crc.process_bytes(data.data(), data.size());
}

void addNumber(Crc& crc, std::uint64_t number) {
  std::array<unsigned char, 8> bytes;
  for (unsigned char& byte : bytes) {
    byte = static_cast<unsigned char>(number);
    number >>= 8;
  }
  crc.process_bytes(bytes.data(), bytes.size());
}

// Offsets of places, from the first block to the last at equal distances.
template <typename Use>
void atPlaces(std::uint64_t bytes, Use use) {
  const std::uint64_t blocks = bytes / BLOCK + (bytes % BLOCK != 0);
  const std::uint64_t samples = std::min(blocks, SAMPLES);
  for (std::uint64_t i = 0; i < samples; i++) {
    // The product stays below 2^64: blocks < 2^52.
    const std::uint64_t block = samples == 1 ? 0 : i * (blocks - 1) / (samples - 1);
    use(block * BLOCK);
  }
}

// Mostly holes: what is looked at is the data behind each place.
void addUpper(Crc& crc, LayerContent& layer) {
  std::uint64_t before = ~0ull;
  atPlaces(layer.bytes(), [&](std::uint64_t place) {
    const std::uint64_t offset = layer.dataFrom(place);
    addNumber(crc, offset);
    if (offset < layer.bytes() && std::exchange(before, offset) != offset) addBlock(crc, layer, offset);
  });
}

}  // namespace

SnapshotIdentity identityOf(LayerContent& memory) {
  Crc crc;
  atPlaces(memory.bytes(), [&](std::uint64_t place) { addBlock(crc, memory, place); });
  return {memory.bytes(), crc.checksum()};
}

SnapshotIdentity identityOf(const std::vector<std::unique_ptr<LayerContent>>& layers) {
  const SnapshotIdentity base = identityOf(*layers.back());
  if (layers.size() == 1) return base;
  Crc crc;
  addNumber(crc, base.fingerprint);
  for (std::size_t i = layers.size() - 1; i-- > 0;) addUpper(crc, *layers[i]);
  return {base.bytes, crc.checksum()};
}

SnapshotIdentity identityOf(int memory) {
  PlainContent content(memory);
  return identityOf(content);
}

SnapshotIdentity identityOf(const std::vector<kj::AutoCloseFd>& layers) {
  std::vector<std::unique_ptr<LayerContent>> contents;
  contents.reserve(layers.size());
  std::vector<std::unique_ptr<PackedFile>> packed;
  for (const kj::AutoCloseFd& layer : layers) {
    if (isPacked(layer.get(), "a layer")) {
      packed.push_back(std::make_unique<PackedFile>(packedFile(process::duplicate(layer.get()), "a layer")));
      contents.push_back(std::make_unique<PackedContent>(packed.back()->image));
    } else {
      contents.push_back(std::make_unique<PlainContent>(layer.get()));
    }
  }
  return identityOf(contents);
}

std::string fingerprintText(const SnapshotIdentity& identity) {
  return fingerprintText(identity.fingerprint);
}

std::string fingerprintText(std::uint64_t fingerprint) {
  char text[20];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(fingerprint));
  return text;
}

}  // namespace faultline::cli
