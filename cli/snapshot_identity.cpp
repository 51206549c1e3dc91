#include "cli/snapshot_identity.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/crc.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "cli/errors.h"
#include "process/content_size.h"

namespace faultline::cli {

namespace {

constexpr std::uint64_t BLOCK = 4096, SAMPLES = 256;

// CRC-64/XZ.
using Crc = boost::crc_optimal<64, 0x42F0E1EBA9EA3693, ~0ull, ~0ull, true, true>;

CommandError failure(const std::string& why) {
  return {FAILED, "the memory file can't be read to tell which snapshot it is: " + why};
}

std::uint64_t bytesOf(int memory) {
  const auto size = process::contentBytes(memory);
  if (!size.has_value()) throw failure(std::strerror(errno));
  return *size;
}

void addBlock(Crc& crc, int memory, std::uint64_t offset) {
  std::array<char, BLOCK> data;
  const ssize_t got = pread(memory, data.data(), data.size(), static_cast<off_t>(offset));
  if (got <= 0)
    throw failure("at offset " + std::to_string(offset) + ": " +
                  (got < 0 ? std::strerror(errno) : "it has become shorter"));
  crc.process_bytes(data.data(), static_cast<std::size_t>(got));
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
void addUpper(Crc& crc, int layer, std::uint64_t bytes) {
  std::uint64_t before = ~0ull;
  atPlaces(bytes, [&](std::uint64_t place) {
    const off_t data = lseek(layer, static_cast<off_t>(place), SEEK_DATA);
    if (data < 0 && errno != ENXIO) throw failure(std::strerror(errno));
    const std::uint64_t offset = data < 0 ? bytes : static_cast<std::uint64_t>(data);
    addNumber(crc, offset);
    if (offset < bytes && std::exchange(before, offset) != offset) addBlock(crc, layer, offset);
  });
}

}  // namespace

SnapshotIdentity identityOf(int memory) {
  const std::uint64_t bytes = bytesOf(memory);
  Crc crc;
  atPlaces(bytes, [&](std::uint64_t place) { addBlock(crc, memory, place); });
  return {bytes, crc.checksum()};
}

SnapshotIdentity identityOf(const std::vector<kj::AutoCloseFd>& layers) {
  const SnapshotIdentity base = identityOf(layers.back().get());
  if (layers.size() == 1) return base;
  Crc crc;
  addNumber(crc, base.fingerprint);
  for (std::size_t i = layers.size() - 1; i-- > 0;) addUpper(crc, layers[i].get(), bytesOf(layers[i].get()));
  return {base.bytes, crc.checksum()};
}

std::string fingerprintText(const SnapshotIdentity& identity) {
  char text[20];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(identity.fingerprint));
  return text;
}

}  // namespace faultline::cli
