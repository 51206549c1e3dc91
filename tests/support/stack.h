// Stacks of sparse memory files for tests, and what they show.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/image.h"

namespace faultline::test {

// An upper layer: a file that begins as one hole.
class UpperLayer {
 public:
  UpperLayer(std::string path, std::uint64_t bytes);
  ~UpperLayer();
  UpperLayer(const UpperLayer&) = delete;

  const std::string& path() const { return path_; }
  void write(std::uint64_t offset, const void* bytes, std::uint64_t length);
  void fill(std::uint64_t offset, std::uint64_t length, unsigned char byte);

 private:
  const std::string path_;
  int fd_;
};

// A stack of layers of one size, the top one first, and beside it the flattened file. Its lowest is an Image. What is
// put into a layer is put into the flattened file as well, so layers are filled from the lowest up. The files go with it.
class Stack {
 public:
  static constexpr std::uint64_t PAGE = 4096;

  Stack(std::uint64_t bytes, unsigned layers);
  // A stack of 2 to 6 layers, or 32, and random extents: data, zeros that are data, and holes.
  static Stack random(std::uint64_t bytes, std::uint64_t seed);
  // A stack that shows the image: each 64 KiB of it are in one of the layers, and other bytes in the layers below that.
  static Stack split(const Image& image, unsigned layers);

  unsigned layers() const { return static_cast<unsigned>(upper_.size()) + 1; }
  UpperLayer& layer(unsigned i) { return *upper_[i]; }
  UpperLayer& top() { return layer(0); }
  Image& lowest() { return *lowest_; }
  // The flattened file: what a target must see.
  Image& shown() { return *shown_; }
  const Image& shown() const { return *shown_; }

  // Puts pages of their own bytes into an upper layer.
  void data(unsigned layer, std::uint64_t page, std::uint64_t count);
  // Puts zeros into any layer; in the lowest they may be a hole.
  void zeros(unsigned layer, std::uint64_t page, std::uint64_t count);
  void hole(std::uint64_t page, std::uint64_t count);

  // The paths, the top one first.
  std::vector<std::string> paths() const;
  // Arguments that name the layers below the top one.
  std::vector<std::string> over() const;

 private:
  std::vector<std::unique_ptr<UpperLayer>> upper_;
  std::unique_ptr<Image> lowest_, shown_;
};

}  // namespace faultline::test
