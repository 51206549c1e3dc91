#include "tests/packed/made_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include <random>
#include <stdexcept>

namespace faultline::test {

std::string little(std::uint64_t number, unsigned bytes) {
  std::string text;
  for (unsigned i = 0; i < bytes; i++) text += static_cast<char>(number >> (8 * i));
  return text;
}

MadeFrame frameOf(const std::string& content) {
  std::string packed(ZSTD_compressBound(content.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), content.data(), content.size(), 1));
  const auto size = static_cast<std::uint32_t>(packed.size());
  return {packed, size, static_cast<std::uint32_t>(content.size()),
          static_cast<std::uint32_t>(XXH64(content.data(), content.size(), 0))};
}

MadeFrame skippable(std::uint32_t magic, const std::string& content) {
  const std::string packed = little(magic, 4) + little(content.size(), 4) + content;
  return {packed, static_cast<std::uint32_t>(packed.size()), 0, static_cast<std::uint32_t>(XXH64("", 0, 0))};
}

std::string tableOf(const std::vector<MadeFrame>& frames, const MadeTable& table) {
  std::string entries;
  for (const MadeFrame& frame : frames)
    entries += little(frame.packedBytes, 4) + little(frame.bytes, 4) +
               (table.checksums ? little(frame.checksum, 4) : "");
  return little(table.magic, 4) + little(entries.size() + 9, 4) + entries +
         little(frames.size() + table.moreFrames, 4) +
         static_cast<char>((table.checksums ? 0x80 : 0) | table.descriptor) + little(0x8F92EAB1, 4);
}

std::string fileOf(const std::vector<MadeFrame>& frames, const MadeTable& table) {
  std::string bytes;
  for (const MadeFrame& frame : frames) bytes += frame.packed;
  return bytes + tableOf(frames, table);
}

std::string textOf(std::size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < bytes) text += "the page of " + std::to_string(random() % 1000) + ", and more; ";
  return text.substr(0, bytes);
}

MemoryFile::MemoryFile(const std::string& bytes) : fd_(memfd_create("packed", MFD_CLOEXEC)) {
  if (fd_ < 0 || pwrite(fd_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw std::runtime_error("cannot make a file");
}

MemoryFile::~MemoryFile() {
  close(fd_);
}

std::uint64_t MemoryFile::bytes() const {
  struct stat status {};
  if (fstat(fd_, &status) != 0) throw std::runtime_error("cannot look at a file");
  return static_cast<std::uint64_t>(status.st_size);
}

std::string MemoryFile::content() const {
  std::string content(bytes(), '\1');
  if (pread(fd_, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size()))
    throw std::runtime_error("cannot read a file");
  return content;
}

void MemoryFile::flip(std::uint64_t bit) const {
  const auto at = static_cast<off_t>(bit / 8);
  unsigned char byte = 0;
  if (pread(fd_, &byte, 1, at) != 1) throw std::runtime_error("cannot read a file");
  byte = static_cast<unsigned char>(byte ^ (1u << (bit % 8)));
  if (pwrite(fd_, &byte, 1, at) != 1) throw std::runtime_error("cannot write a file");
}

}  // namespace faultline::test
