// The table of the zstd seekable format, by which a frame is found: the last frame of a file, which zstd skips.
// https://github.com/facebook/zstd, contrib/seekable_format/zstd_seekable_compression_format.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "packed/bytes.h"

namespace faultline::packed {

// A larger frame is refused: a page would wait for all of it.
inline constexpr std::uint32_t LARGEST_FRAME = 2u << 20;  // bytes of content

struct Frame {
  std::uint64_t offset;       // content's, in the image
  std::uint32_t bytes;        // content's
  std::uint64_t at;           // frame's, in the file
  std::uint32_t packedBytes;  // frame's, in the file
  std::uint32_t checksum;     // content's

  std::uint64_t end() const { return offset + bytes; }
};

// An entry without content: a skippable frame, or a frame of nothing.
struct EmptyFrame {
  std::uint64_t at;
  std::uint32_t packedBytes;
};

// A table that has been checked. Const methods: any thread.
class SeekTable {
 public:
  // Reads the table of a file of `fileBytes` and checks every entry. Frames follow each other without a gap and end
  // where the table begins; each has a checksum; each but the last has whole pages of 4096 bytes; none has more than
  // LARGEST_FRAME, nor more than its packed bytes can hold. Any bytes may come; memory is in proportion to what the file
  // really has. Throws Refused, naming file, value and way out; std::system_error where the file cannot be read. Waits for
  // the file.
  explicit SeekTable(const Bytes& file);

  std::uint64_t bytes() const { return content_; }  // image's size
  std::size_t frames() const { return entries_.size(); }
  Frame frame(std::size_t index) const;
  // Index of the frame that has this byte of the image.
  std::size_t indexAt(std::uint64_t offset) const;
  // The largest of them, which is how much room is needed to unpack one.
  std::uint32_t largestPacked() const { return largestPacked_; }
  std::uint32_t largest() const { return largest_; }
  const std::vector<EmptyFrame>& empty() const { return empty_; }
  // XXH64 of all entries as they are in the file: of the sizes and checksums of all frames.
  std::uint64_t hash() const { return hash_; }

 private:
  struct Entry {
    std::uint64_t offset, at;
    std::uint32_t packedBytes, checksum;
  };
  class Reading;

  std::vector<Entry> entries_;
  std::vector<EmptyFrame> empty_;
  std::uint64_t content_ = 0, hash_ = 0;
  std::uint32_t largestPacked_ = 0, largest_ = 0;
};

// Whether the file ends as one with a seek table does. Throws std::system_error. Waits for the file.
bool hasSeekTable(const Bytes& file);

// Makes a table, entry by entry in the order of the frames.
class SeekTableWriter {
 public:
  void add(std::uint32_t packedBytes, std::uint32_t bytes, std::uint32_t checksum);
  std::uint32_t entries() const { return entries_; }
  // XXH64 of the entries so far, as SeekTable::hash().
  std::uint64_t hash() const;
  // The frame with the table.
  std::vector<std::byte> finish();

 private:
  std::vector<std::byte> bytes_;
  std::uint32_t entries_ = 0;
};

// Frames that a table can have, as in zstd's own code.
inline constexpr std::uint32_t MOST_FRAMES = 1u << 27;

}  // namespace faultline::packed
