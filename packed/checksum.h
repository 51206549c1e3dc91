// The checksums of packed images: XXH64 with seed 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace faultline::packed {

std::uint64_t hashOf(std::span<const std::byte> bytes);

// Checksum that a seek table has of a frame's content: the low 32 bits.
inline std::uint32_t checksumOf(std::span<const std::byte> content) {
  return static_cast<std::uint32_t>(hashOf(content));
}

// The hash of bytes that come piece by piece. One thread.
class RunningHash {
 public:
  RunningHash();
  ~RunningHash();
  RunningHash(RunningHash&&) noexcept;

  void add(std::span<const std::byte> bytes);
  std::uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace faultline::packed
