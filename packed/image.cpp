#include "packed/image.h"

#include <zstd.h>

#include <algorithm>
#include <array>

#include "packed/description.h"
#include "packed/error.h"
#include "packed/file.h"
#include "packed/little_endian.h"

namespace faultline::packed {

void FrameReader::read(int file, const std::string& name, std::size_t index, const Frame& frame,
                       std::span<std::byte> content) {
  if (packed_.size() < frame.packedBytes) packed_.resize(frame.packedBytes);
  const std::span<std::byte> bytes = std::span(packed_).first(frame.packedBytes);
  readAt(file, name, frame.at, bytes);
  if (const auto why = unpacker_.unpack(bytes, content, frame.checksum))
    throw Damaged(name + ": frame " + std::to_string(index) + " (" + std::to_string(frame.packedBytes) +
                  " bytes at offset " + std::to_string(frame.at) + ", of the image " +
                  std::to_string(frame.bytes) + " at " + std::to_string(frame.offset) + ") " + *why +
                  "; the file was damaged: copy it anew, or pack the image again");
}

Image::Image(int file, const std::string& name, std::uint64_t fileBytes)
    : file_(file),
      name_(name),
      fileBytes_(fileBytes),
      table_(file, name, fileBytes),
      map_(table_.bytes(), Kind::data) {
  readDescription();
}

void Image::readDescription() {
  const auto refuse = [&](const std::string& why) {
    return Refused(name_ + " can't be used as a packed image: " + why);
  };
  constexpr const char* DAMAGED = "; it was damaged: copy it anew, or pack the image again";
  for (const EmptyFrame& frame : table_.empty()) {
    std::array<std::byte, DESCRIPTION_PROBE> first{};
    const std::size_t there = std::min<std::size_t>(first.size(), frame.packedBytes);
    readAt(file_, name_, frame.at, std::span(first).first(there));
    const auto magic = there < 4 ? 0 : numberAt<std::uint32_t>(first, 0);
    if (!isDescription(std::span(first).first(there))) {
      if (magic != ZSTD_MAGICNUMBER && (magic & ZSTD_MAGIC_SKIPPABLE_MASK) != ZSTD_MAGIC_SKIPPABLE_START)
        throw refuse("no frame begins at offset " + std::to_string(frame.at) + ", where its table says so" +
                     DAMAGED);
      continue;
    }
    if (described_) throw refuse(std::string("it has two descriptions") + DAMAGED);
    if (frame.packedBytes > mostDescriptionBytes(table_.bytes()))
      throw refuse("its description has " + std::to_string(frame.packedBytes) + " bytes, more than its " +
                   std::to_string(table_.bytes()) + " can need" + DAMAGED);
    std::vector<std::byte> bytes(frame.packedBytes);
    readAt(file_, name_, frame.at, bytes);
    Description description;
    try {
      description = parseDescription(bytes);
    } catch (const Refused& error) {
      throw refuse(std::string("it ") + error.what());
    }
    if (description.tableHash != table_.hash())
      throw refuse(std::string("its table is not the one that was written") + DAMAGED);
    if (description.map.bytes() != table_.bytes())
      throw refuse("its description is of an image of " + std::to_string(description.map.bytes()) +
                   " bytes, and its frames have " + std::to_string(table_.bytes()) + DAMAGED);
    described_ = true;
    base_ = description.base;
    map_ = std::move(description.map);
  }
}

void Image::read(std::size_t index, FrameReader& reader, std::span<std::byte> content) const {
  reader.read(file_, name_, index, table_.frame(index), content);
}

void Image::readRange(std::uint64_t offset, FrameReader& reader, std::span<std::byte> to) const {
  std::vector<std::byte> content;
  for (std::size_t index = table_.indexAt(offset); !to.empty(); index++) {
    const Frame frame = table_.frame(index);
    content.resize(frame.bytes);
    read(index, reader, content);
    const std::span<const std::byte> wanted = std::span(content).subspan(offset - frame.offset);
    const std::size_t size = std::min(wanted.size(), to.size());
    std::copy_n(wanted.begin(), size, to.begin());
    to = to.subspan(size);
    offset += size;
  }
}

}  // namespace faultline::packed
