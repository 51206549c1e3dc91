// The bytes of a layer, whatever file it lies in: what the identity of a snapshot is found from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace faultline::image {

class LayerContent {
 public:
  virtual ~LayerContent() = default;
  virtual std::uint64_t bytes() const = 0;
  // Fills `to`, which lies in it, from `offset` on. Throws std::runtime_error, saying what cannot be read, where that fails.
  virtual void read(std::uint64_t offset, std::span<std::byte> to) = 0;
  // Offset of its own data at or behind `offset`; bytes() where there is no more. Throws as read().
  virtual std::uint64_t dataFrom(std::uint64_t offset) = 0;
};

// Content of a plain file, or of a block device (read() alone).
class PlainContent : public LayerContent {
 public:
  // `file`: borrowed; dataFrom() moves its position. Throws as read() where its size cannot be told.
  explicit PlainContent(int file);
  std::uint64_t bytes() const override { return bytes_; }
  void read(std::uint64_t offset, std::span<std::byte> to) override;
  std::uint64_t dataFrom(std::uint64_t offset) override;

 private:
  const int file_;
  const std::uint64_t bytes_;
};

}  // namespace faultline::image
