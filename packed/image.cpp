#include "packed/image.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "packed/description.h"
#include "packed/error.h"
#include "packed/little_endian.h"

namespace faultline::packed {

void FrameReader::read(const Bytes& file, const SeekTable& table, std::size_t first, std::size_t end,
                       std::span<std::byte> content) {
  const std::uint64_t from = table.frame(first).at;
  const Frame last = table.frame(end - 1);
  const std::size_t size = last.at + last.packedBytes - from;
  if (packed_.size() < size) packed_.resize(size);
  const std::span<std::byte> packed = std::span(packed_).first(size);
  file.read(from, packed);
  for (std::size_t index = first; index < end; index++) {
    const Frame frame = table.frame(index);
    if (const auto why = unpacker_.unpack(packed.subspan(frame.at - from, frame.packedBytes),
                                          content.first(frame.bytes), frame.checksum))
      throw Damaged(file.name() + ": frame " + std::to_string(index) + " (" +
                    std::to_string(frame.packedBytes) + " bytes at offset " + std::to_string(frame.at) +
                    ", of the image " + std::to_string(frame.bytes) + " at " + std::to_string(frame.offset) +
                    ") " + *why + "; the file was damaged: copy it anew, or pack the image again");
    content = content.subspan(frame.bytes);
  }
}

Image::Image(std::shared_ptr<const Bytes> file)
    : file_(std::move(file)), table_(*file_), map_(table_.bytes(), Kind::data) {
  readDescription();
}

void Image::readDescription() {
  const auto refuse = [&](const std::string& why) {
    return Refused(name() + " can't be used as a packed image: " + why);
  };
  constexpr const char* DAMAGED = "; it was damaged: copy it anew, or pack the image again";
  for (const EmptyFrame& frame : table_.empty()) {
    std::array<std::byte, DESCRIPTION_PROBE> first{};
    const std::size_t there = std::min<std::size_t>(first.size(), frame.packedBytes);
    file_->read(frame.at, std::span(first).first(there));
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
    file_->read(frame.at, bytes);
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

void Image::read(std::size_t first, std::size_t end, FrameReader& reader,
                 std::span<std::byte> content) const {
  reader.read(*file_, table_, first, end, content);
}

void Image::read(std::size_t index, FrameReader& reader, std::span<std::byte> content) const {
  read(index, index + 1, reader, content);
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
