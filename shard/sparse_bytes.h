// An array of which only what is written takes memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace faultline::shard {

// Bytes that are zero at first. In a mapping of its own and not on the heap: memory that calloc() hands out again it clears
// as a whole. Any thread.
class SparseBytes {
 public:
  using Byte = std::atomic<std::uint8_t>;

  // Throws kj::Exception where it cannot be mapped.
  explicit SparseBytes(std::size_t size);
  ~SparseBytes();
  SparseBytes(const SparseBytes&) = delete;
  SparseBytes& operator=(const SparseBytes&) = delete;

  Byte& operator[](std::size_t index) const { return bytes_[index]; }

 private:
  const std::size_t size_;
  Byte* const bytes_;
};

}  // namespace faultline::shard
