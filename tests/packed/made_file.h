// Files of the zstd seekable format, made by hand: right ones as other programs write them, and wrong ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace faultline::test {

struct MadeFrame {
  std::string packed;         // bytes in the file
  std::uint32_t packedBytes;  // table's, as are the following
  std::uint32_t bytes, checksum;
};

// A frame as zstd makes it by default, without a checksum in it.
MadeFrame frameOf(const std::string& content);
// A frame that zstd skips.
MadeFrame skippable(std::uint32_t magic, const std::string& content);

struct MadeTable {
  bool checksums = true;
  std::uint32_t magic = 0x184D2A5E;
  std::uint8_t descriptor = 0;   // further bits of it
  std::uint32_t moreFrames = 0;  // than there are, in the footer
};

// The table of `frames`, without them.
std::string tableOf(const std::vector<MadeFrame>& frames, const MadeTable& table = {});
std::string fileOf(const std::vector<MadeFrame>& frames, const MadeTable& table = {});

// `number` in so many bytes, little-endian.
std::string little(std::uint64_t number, unsigned bytes);

// Text that is not the same anywhere, and is packed to a tenth.
std::string textOf(std::size_t bytes, unsigned seed = 1);

// An open file without a name.
class MemoryFile {
 public:
  explicit MemoryFile(const std::string& bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;

  int fd() const { return fd_; }
  std::uint64_t bytes() const;
  std::string content() const;
  void flip(std::uint64_t bit) const;

 private:
  int fd_;
};

}  // namespace faultline::test
