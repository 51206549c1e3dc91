// Bytes that are all 0.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace faultline::packed {

inline bool isZero(std::span<const std::byte> bytes) {
  // Zeros: a byte is equal to that before it, and the first is 0.
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace faultline::packed
