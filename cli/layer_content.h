// The bytes of a layer, whatever file it lies in: what the identity of a snapshot is found from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "packed/image.h"

namespace faultline::cli {

class LayerContent {
 public:
  virtual ~LayerContent() = default;
  virtual std::uint64_t bytes() const = 0;
  // Fills `to`, which lies in it, from `offset` on. CommandError(FAILED) where that fails.
  virtual void read(std::uint64_t offset, std::span<std::byte> to) = 0;
  // Offset of its own data at or behind `offset`; bytes() where there is no more. CommandError(FAILED) as read().
  virtual std::uint64_t dataFrom(std::uint64_t offset) = 0;
};

// Content of a plain file, or of a block device (read() alone).
class PlainContent : public LayerContent {
 public:
  // `file`: borrowed; dataFrom() moves its position. CommandError(FAILED) where its size cannot be told.
  explicit PlainContent(int file);
  std::uint64_t bytes() const override { return bytes_; }
  void read(std::uint64_t offset, std::span<std::byte> to) override;
  std::uint64_t dataFrom(std::uint64_t offset) override;

 private:
  const int file_;
  const std::uint64_t bytes_;
};

// Content of a packed image: the same bytes and the same data as the file that was packed.
class PackedContent : public LayerContent {
 public:
  // `image`: borrowed.
  explicit PackedContent(const packed::Image& image) : image_(image) {}
  std::uint64_t bytes() const override { return image_.bytes(); }
  void read(std::uint64_t offset, std::span<std::byte> to) override;
  std::uint64_t dataFrom(std::uint64_t offset) override;

 private:
  const packed::Image& image_;
  packed::FrameReader reader_;
};

}  // namespace faultline::cli
