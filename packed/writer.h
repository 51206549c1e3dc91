// Writes a packed image, frame after frame.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "packed/frames.h"
#include "packed/layer_map.h"
#include "packed/seek_table.h"

namespace faultline::packed {

// For one thread at a time. The file is an image when finish() has returned.
class Writer {
 public:
  // `file`: empty, open for writing, borrowed. `name`: for messages.
  Writer(int file, std::string name) : file_(file), name_(std::move(name)) {}

  // The next frame of the image. Throws std::runtime_error where the file cannot be written, or would have more frames
  // than a table can. Waits for the file.
  void add(const PackedFrame& frame);
  // Description and table. `map`: of all the bytes that were added. `base`: as of Image. Throws as add() does.
  void finish(LayerMap map, std::optional<std::uint64_t> base);

  std::uint64_t fileBytes() const { return at_; }
  std::uint32_t frames() const { return frames_; }

 private:
  void put(const std::vector<std::byte>& bytes);
  void flush();

  const int file_;
  const std::string name_;
  SeekTableWriter table_;
  std::vector<std::byte> buffer_;  // ends at at_
  std::uint64_t at_ = 0;
  std::uint32_t frames_ = 0;
};

}  // namespace faultline::packed
