#include "cli/snapshot_identity.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/crc.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "cli/errors.h"
#include "process/content_size.h"

namespace faultline::cli {

namespace {
constexpr std::uint64_t BLOCK = 4096, SAMPLES = 256;
}

SnapshotIdentity identityOf(int memory) {
  auto fail = [](const std::string& why) -> CommandError {
    return {FAILED, "the memory file can't be read to tell which snapshot it is: " + why};
  };
  const auto size = process::contentBytes(memory);
  if (!size.has_value()) throw fail(std::strerror(errno));
  const std::uint64_t bytes = *size;
  const std::uint64_t blocks = bytes / BLOCK + (bytes % BLOCK != 0);
  const std::uint64_t samples = std::min(blocks, SAMPLES);
  // CRC-64/XZ.
  boost::crc_optimal<64, 0x42F0E1EBA9EA3693, ~0ull, ~0ull, true, true> crc;
  for (std::uint64_t i = 0; i < samples; i++) {
    // From the first block to the last at equal distances. The product stays below 2^64: blocks < 2^52.
    const std::uint64_t block = samples == 1 ? 0 : i * (blocks - 1) / (samples - 1);
    std::array<char, BLOCK> data;
    const ssize_t got = pread(memory, data.data(), data.size(), static_cast<off_t>(block * BLOCK));
    if (got <= 0)
      throw fail("at offset " + std::to_string(block * BLOCK) + ": " +
                 (got < 0 ? std::strerror(errno) : "it has become shorter"));
    crc.process_bytes(data.data(), static_cast<std::size_t>(got));
  }
  return {bytes, crc.checksum()};
}

std::string fingerprintText(const SnapshotIdentity& identity) {
  char text[20];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(identity.fingerprint));
  return text;
}

}  // namespace faultline::cli
