// Numbers as files have them, whatever the machine: little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace faultline::packed {

// The number that begins at `at`. The caller has made sure that all of it is there.
template <typename Number>
Number numberAt(std::span<const std::byte> bytes, std::size_t at) {
  Number value = 0;
  for (std::size_t i = 0; i < sizeof value; i++)
    value |= static_cast<Number>(std::to_integer<Number>(bytes[at + i]) << (8 * i));
  return value;
}

template <typename Number>
void append(std::vector<std::byte>& to, Number value) {
  for (std::size_t i = 0; i < sizeof value; i++) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}

}  // namespace faultline::packed
