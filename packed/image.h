// A packed image, open for reading: pages are found by its table, and no byte is given out unchecked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "packed/bytes.h"
#include "packed/frames.h"
#include "packed/layer_map.h"
#include "packed/seek_table.h"

namespace faultline::packed {

// Reads frames one after the other: a thread has one of its own, for any images.
class FrameReader {
 public:
  // Fills `content`, of their size, with the bytes of the frames from `first` to before `end`, which one read of the file
  // brings. All are right when the call returns. Throws Damaged where they cannot be had from what the file has;
  // std::system_error where the file cannot be read. Waits for the file.
  void read(const Bytes& file, const SeekTable& table, std::size_t first, std::size_t end,
            std::span<std::byte> content);

 private:
  Unpacker unpacker_;
  std::vector<std::byte> packed_;
};

// Const methods: any thread.
class Image {
 public:
  // Reads and checks table and description. Throws Refused and std::system_error, naming the file. Waits for the file.
  explicit Image(std::shared_ptr<const Bytes> file);
  // `file`: open for reading, borrowed; it must stay as it is. `name`: for messages.
  Image(int file, const std::string& name, std::uint64_t fileBytes)
      : Image(std::make_shared<const FileBytes>(file, name, fileBytes)) {}

  const Bytes& file() const { return *file_; }
  const std::string& name() const { return file_->name(); }
  std::uint64_t bytes() const { return table_.bytes(); }
  std::uint64_t fileBytes() const { return file_->size(); }
  const SeekTable& table() const { return table_; }
  // All data where the file says nothing of its pages: other writers do not.
  const LayerMap& map() const { return map_; }
  // Whether faultline has written it.
  bool isDescribed() const { return described_; }
  // Fingerprint of what a differential image lies over. Empty: a full one.
  std::optional<std::uint64_t> base() const { return base_; }

  // The kind that a hole of the file was that it was packed from.
  Kind hole() const { return base_.has_value() ? Kind::below : Kind::zero; }

  // Frames from `first` to before `end`, by FrameReader::read().
  void read(std::size_t first, std::size_t end, FrameReader& reader, std::span<std::byte> content) const;
  // One frame.
  void read(std::size_t index, FrameReader& reader, std::span<std::byte> content) const;
  // A range of the image, which lies in it. Unpacks each frame that it touches.
  void readRange(std::uint64_t offset, FrameReader& reader, std::span<std::byte> to) const;

 private:
  void readDescription();

  std::shared_ptr<const Bytes> file_;
  SeekTable table_;
  LayerMap map_;
  bool described_ = false;
  std::optional<std::uint64_t> base_;
};

}  // namespace faultline::packed
