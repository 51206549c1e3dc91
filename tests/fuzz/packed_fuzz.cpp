// A packed image of arbitrary bytes is refused with a message, or every byte that is given out has its checksum, and lies
// where the table says.
//
// Input: a byte that says what, and
// - 0: a file;
// - 1: entries of a table (12 bytes each), of which a file is made with as many packed bytes as they say, up to 4 KiB
//   each; what is behind the table's checks is reached so;
// - 2: a description without its header, whose checksum is made right.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "packed/checksum.h"
#include "packed/description.h"
#include "packed/error.h"
#include "packed/image.h"
#include "packed/little_endian.h"
#include "packed/seek_table.h"
#include "tests/fuzz/require.h"

using namespace faultline;

namespace {

using Bytes = std::vector<std::byte>;

int fileWith(std::span<const std::byte> bytes) {
  static const int fd = memfd_create("packed", MFD_CLOEXEC);
  fuzz::require(fd >= 0 && ftruncate(fd, 0) == 0 &&
                    pwrite(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
                "a file can be made");
  return fd;
}

void lookAtMap(const packed::LayerMap& map, std::uint64_t bytes, bool differential) {
  fuzz::require(map.bytes() == bytes, "a map has all of its image");
  std::uint64_t reached = 0;
  map.forEach(0, bytes, [&](const packed::Extent& extent) {
    fuzz::require(extent.offset == reached && extent.size > 0, "parts of a map follow each other");
    fuzz::require(differential || extent.kind != packed::Kind::below, "a full image has no hole");
    reached = extent.end();
  });
  fuzz::require(reached == bytes, "a map ends with its image");
}

void lookAt(std::span<const std::byte> file) {
  const packed::Image image(fileWith(file), "fuzz", file.size());
  const packed::SeekTable& table = image.table();
  lookAtMap(image.map(), image.bytes(), image.base().has_value());
  packed::FrameReader reader;
  Bytes content;
  std::uint64_t offset = 0, at = 0;
  for (std::size_t i = 0; i < table.frames(); i++) {
    const packed::Frame frame = table.frame(i);
    fuzz::require(frame.offset == offset && frame.bytes > 0 && frame.bytes <= packed::LARGEST_FRAME,
                  "frames follow each other");
    fuzz::require(frame.offset % packed::PAGE == 0, "a frame begins with a page");
    fuzz::require(frame.at >= at && frame.at + frame.packedBytes < file.size(), "a frame lies in the file");
    fuzz::require(table.indexAt(frame.offset) == i && table.indexAt(frame.end() - 1) == i,
                  "a byte has one frame");
    offset = frame.end();
    at = frame.at + frame.packedBytes;
    content.resize(frame.bytes);
    try {
      image.read(i, reader, content);
      fuzz::require(packed::checksumOf(content) == frame.checksum, "what is given out has its checksum");
    } catch (const packed::Damaged& damaged) {
      fuzz::require(damaged.what()[0] != '\0', "a refusal says why");
    }
  }
  fuzz::require(offset == image.bytes(), "frames are all of the image");
}

Bytes fileOfEntries(std::span<const std::byte> entries) {
  constexpr std::size_t ENTRY = 12;
  Bytes file;
  packed::SeekTableWriter table;
  for (; entries.size() >= ENTRY; entries = entries.subspan(ENTRY)) {
    const auto packedBytes = packed::numberAt<std::uint32_t>(entries, 0);
    table.add(packedBytes, packed::numberAt<std::uint32_t>(entries, 4),
              packed::numberAt<std::uint32_t>(entries, 8));
    file.resize(file.size() + std::min(packedBytes, 4u << 10));
  }
  const Bytes end = table.finish();
  file.insert(file.end(), end.begin(), end.end());
  return file;
}

void lookAtDescription(std::span<const std::byte> content) {
  Bytes frame;
  packed::append(frame, packed::DESCRIPTION_FRAME);
  packed::append(frame, static_cast<std::uint32_t>(content.size() + 8));
  frame.insert(frame.end(), content.begin(), content.end());
  packed::append(frame, packed::hashOf(frame));
  const packed::Description description = packed::parseDescription(frame);
  lookAtMap(description.map, description.map.bytes(), description.base.has_value());
  // Neighbours of one kind are joined: what is written then may be shorter, and says the same.
  const Bytes again = packed::formatDescription(description);
  fuzz::require(again.size() == packed::descriptionBytes(description.map) && again.size() <= frame.size(),
                "what is written has the length that is said");
  const packed::Description read = packed::parseDescription(again);
  fuzz::require(read.map.size() == description.map.size() && read.base == description.base &&
                    read.tableHash == description.tableHash,
                "what is read is written the same");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  if (size == 0) return 0;
  const std::span input(reinterpret_cast<const std::byte*>(bytes + 1), size - 1);
  try {
    switch (bytes[0] % 3) {
      case 0:
        lookAt(input);
        break;
      case 1:
        lookAt(fileOfEntries(input));
        break;
      default:
        lookAtDescription(input);
    }
  } catch (const packed::Refused& refused) {
    fuzz::require(refused.what()[0] != '\0', "a refusal says why");
  }
  return 0;
}
