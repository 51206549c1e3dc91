// Damage of a packed image is noticed before a byte of it is given out.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <span>

#include "packed/error.h"
#include "packed/pack.h"
#include "packed/unpack.h"
#include "tests/packed/made_file.h"

namespace faultline::test {
namespace {

using packed::Image;
using ::testing::HasSubstr;

constexpr std::size_t PAGE = 4096;
const auto NO_PROGRESS = [](std::uint64_t) {};

// A page, a hole of two pages, zeros that are data, and a part of a page in a frame of its own.
std::string smallImage() {
  return textOf(1000) + std::string((64 << 10) - 1000, '\0') + textOf(200, 2);
}

// Packed with that hole.
struct Packed {
  explicit Packed(const std::string& content, std::optional<std::uint64_t> base = {})
      : original(content), file("") {
    const MemoryFile in(content);
    packed::pack({in.fd(), "in", content.size(), {{0, PAGE}, {3 * PAGE, content.size() - 3 * PAGE}}},
                 file.fd(), "out", {.base = base}, NO_PROGRESS);
  }
  std::string unpacked() const {
    const Image image(file.fd(), "vm.packed", file.bytes());
    const MemoryFile out("");
    packed::unpack(image, out.fd(), "out", NO_PROGRESS);
    return out.content();
  }

  const std::string original;
  const MemoryFile file;
};

// Some bits of a frame make no difference to what it unpacks to: then the bytes are right. In the descriptor of the table
// the bits 0 and 1 are to be ignored. All others are noticed.
TEST(Damage, NoFlippedBitGivesOtherBytes) {
  const Packed packed(smallImage(), 7);
  ASSERT_TRUE(packed.unpacked() == packed.original);
  const Image image(packed.file.fd(), "vm.packed", packed.file.bytes());
  const packed::Frame last = image.table().frame(image.table().frames() - 1);
  const std::uint64_t framesEnd = (last.at + last.packedBytes) * 8,
                      descriptor = (packed.file.bytes() - 5) * 8;
  std::uint64_t unnoticed = 0;
  for (std::uint64_t bit = 0; bit < packed.file.bytes() * 8; bit++) {
    packed.file.flip(bit);
    try {
      ASSERT_TRUE(packed.unpacked() == packed.original)
          << "wrong bytes: byte " << bit / 8 << ", bit " << bit % 8;
      ASSERT_TRUE(bit < framesEnd || bit == descriptor || bit == descriptor + 1)
          << "byte " << bit / 8 << ", bit " << bit % 8 << " of " << packed.file.bytes() << " bytes";
      unnoticed++;
    } catch (const packed::Refused&) {
    } catch (const packed::Damaged&) {
    }
    packed.file.flip(bit);
  }
  EXPECT_GE(unnoticed, 2u) << "the bits that are to be ignored";
  EXPECT_LT(unnoticed, packed.file.bytes() * 8 / 20);
}

TEST(Damage, CutFilesAreRefused) {
  const Packed packed(smallImage());
  const std::string whole = packed.file.content();
  for (std::size_t size = 0; size < whole.size(); size++) {
    const MemoryFile cut(whole.substr(0, size));
    EXPECT_THROW(Image(cut.fd(), "cut", cut.bytes()), packed::Refused) << size;
  }
}

// Other frames can be read still.
TEST(Damage, IsOfOneFrameAlone) {
  const Packed packed(textOf(PAGE) + std::string(2 * PAGE, '\0') + textOf(200'000, 2));
  const Image image(packed.file.fd(), "vm.packed", packed.file.bytes());
  packed.file.flip((image.table().frame(1).at + 20) * 8);
  packed::FrameReader reader;
  std::string content(64 << 10, '\0');
  const auto bytes = std::as_writable_bytes(std::span(content));
  image.read(0, reader, bytes);
  EXPECT_EQ(content, packed.original.substr(0, content.size()));
  try {
    image.read(1, reader, bytes);
    FAIL() << "it is taken";
  } catch (const packed::Damaged& damaged) {
    EXPECT_THAT(damaged.what(), HasSubstr("vm.packed: frame 1 ("));
    EXPECT_THAT(damaged.what(), HasSubstr("of the image 65536 at 65536"));
    EXPECT_THAT(damaged.what(), HasSubstr("copy it anew"));
  }
  image.read(0, reader, bytes);
  EXPECT_EQ(content, packed.original.substr(0, content.size()));
}

// A table that is right and a frame of other bytes, its own checksum included: as an attacker would put it there.
TEST(Damage, AFrameOfOtherBytesIsNoticed) {
  MadeFrame frame = frameOf(textOf(PAGE, 1));
  const MadeFrame other = frameOf(textOf(PAGE, 2));
  frame.packed = other.packed;
  frame.packedBytes = other.packedBytes;
  const MemoryFile file(fileOf({frame}));
  const Image image(file.fd(), "made", file.bytes());
  packed::FrameReader reader;
  std::string content(PAGE, '\0');
  EXPECT_THROW(image.read(0, reader, std::as_writable_bytes(std::span(content))), packed::Damaged);
}

// The frame has more, or less, than the table says: nothing is written behind the end.
TEST(Damage, AFrameOfAnotherSizeIsNoticed) {
  for (const std::size_t size : {PAGE - 1, PAGE + 1, 64 * PAGE}) {
    MadeFrame frame = frameOf(std::string(size, 'x'));
    frame.bytes = PAGE;
    const MemoryFile file(fileOf({frame}));
    const Image image(file.fd(), "made", file.bytes());
    packed::FrameReader reader;
    std::string content(PAGE + 16, '?');
    EXPECT_THROW(image.read(0, reader, std::as_writable_bytes(std::span(content)).first(PAGE)),
                 packed::Damaged);
    EXPECT_EQ(content.substr(PAGE), std::string(16, '?'));
  }
}

}  // namespace
}  // namespace faultline::test
