// Memory images for tests: every page tells which it is.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::test {

// A file in a private directory, removed with the object. Page p of 4 KiB begins with its own number and is
// filled with bytes of its own; pages of zero() and hole() read as zeros.
class Image {
 public:
  explicit Image(std::uint64_t bytes);
  ~Image();
  Image(const Image&) = delete;

  const std::string& path() const { return path_; }
  const std::string& directory() const { return directory_; }
  std::uint64_t bytes() const { return bytes_; }
  // The image's byte at `offset`.
  unsigned char at(std::uint64_t offset) const { return static_cast<unsigned char>(map_[offset]); }
  const char* data() const { return map_; }

  void write(std::uint64_t offset, const void* bytes, std::uint64_t length);
  void fill(std::uint64_t offset, std::uint64_t length, unsigned char byte);
  void zero(std::uint64_t offset, std::uint64_t length) { fill(offset, length, 0); }
  void hole(std::uint64_t offset, std::uint64_t length);
  void truncate(std::uint64_t bytes);
  // Drops the file from the page cache, until its next use. false: its file system keeps files in memory.
  bool makeCold();

 private:
  std::string directory_, path_;
  std::uint64_t bytes_;
  int fd_;
  char* map_;
};

}  // namespace faultline::test
