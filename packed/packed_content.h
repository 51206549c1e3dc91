// The bytes of a packed layer, for what finds out which snapshot it is.
#pragma once

#include "image/layer_content.h"
#include "packed/image.h"

namespace faultline::packed {

// Content of a packed image: the same bytes and the same data as the file that was packed.
class PackedContent : public image::LayerContent {
 public:
  // `image`: borrowed.
  explicit PackedContent(const Image& image) : image_(image) {}
  std::uint64_t bytes() const override { return image_.bytes(); }
  // Throws as Image::readRange() does.
  void read(std::uint64_t offset, std::span<std::byte> to) override { image_.readRange(offset, reader_, to); }
  std::uint64_t dataFrom(std::uint64_t offset) override {
    return image_.map().nextOtherThan(Kind::below, offset);
  }

 private:
  const Image& image_;
  FrameReader reader_;
};

}  // namespace faultline::packed
