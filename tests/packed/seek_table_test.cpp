// The table of a packed file: which are taken, and what is said of the others.

#include "packed/seek_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <span>

#include "packed/error.h"
#include "packed/image.h"
#include "tests/packed/made_file.h"

namespace faultline::test {
namespace {

using packed::Image;
using packed::Refused;
using ::testing::HasSubstr;

constexpr std::size_t PAGE = 4096;

std::string unpacked(const Image& image) {
  packed::FrameReader reader;
  std::string content(image.bytes(), '\1');
  image.readRange(0, reader, std::as_writable_bytes(std::span(content)));
  return content;
}

TEST(SeekTable, FindsEachByteOfFilesOfOtherWriters) {
  const std::vector<std::string> parts = {textOf(PAGE, 1), textOf(2u << 20, 2), textOf(64u << 10, 3),
                                          textOf(3 * PAGE, 4), textOf(100, 5)};
  std::vector<MadeFrame> frames;
  std::string content;
  for (const std::string& part : parts) {
    frames.push_back(frameOf(part));
    content += part;
  }
  const MemoryFile file(fileOf(frames));
  const Image image(file.fd(), "made", file.bytes());
  EXPECT_EQ(image.bytes(), content.size());
  EXPECT_FALSE(image.isDescribed());
  EXPECT_FALSE(image.base().has_value());
  EXPECT_TRUE(image.map().isAll(0, image.bytes(), packed::Kind::data));
  EXPECT_TRUE(unpacked(image) == content);
  std::uint64_t begin = 0;
  for (std::size_t i = 0; i < parts.size(); i++) {
    const packed::Frame frame = image.table().frame(i);
    EXPECT_EQ(frame.offset, begin);
    EXPECT_EQ(frame.bytes, parts[i].size());
    EXPECT_EQ(image.table().indexAt(begin), i);
    EXPECT_EQ(image.table().indexAt(begin + parts[i].size() - 1), i);
    begin += parts[i].size();
  }
  packed::FrameReader reader;
  std::string some(10'000, '\0');
  image.readRange(2 * PAGE + 7, reader, std::as_writable_bytes(std::span(some)));
  EXPECT_EQ(some, content.substr(2 * PAGE + 7, some.size()));
}

// zstd's own example ends with a frame of nothing; others skip frames of their own.
TEST(SeekTable, FramesWithoutContentAreLeftOut) {
  const std::string content = textOf(2 * PAGE);
  const MemoryFile file(fileOf({skippable(0x184D2A51, "another's"), frameOf(content.substr(0, PAGE)),
                                skippable(0x184D2A50, ""), frameOf(content.substr(PAGE)), frameOf("")}));
  EXPECT_TRUE(unpacked(Image(file.fd(), "made", file.bytes())) == content);
}

// The bits 0 and 1 of the descriptor are for later, and to be ignored.
TEST(SeekTable, UnusedBitsAreIgnored) {
  const std::string content = textOf(PAGE);
  const MemoryFile file(fileOf({frameOf(content)}, {.descriptor = 3}));
  EXPECT_TRUE(unpacked(Image(file.fd(), "made", file.bytes())) == content);
}

struct Refusal {
  const char* name;
  std::function<std::string()> file;
  std::vector<std::string> said;
};

MadeFrame changed(MadeFrame frame, const std::function<void(MadeFrame&)>& change) {
  change(frame);
  return frame;
}

std::vector<MadeFrame> pages(unsigned count) {
  std::vector<MadeFrame> frames;
  frames.reserve(count);
  for (unsigned i = 0; i < count; i++) frames.push_back(frameOf(textOf(PAGE, i)));
  return frames;
}

const std::string WAY_OUT_FOREIGN = "unpack it with zstd -d, and pack the result with faultline pack";
const std::string WAY_OUT_DAMAGED = "copy it anew, or pack the image again";

const std::vector<Refusal> REFUSALS = {
    {"Empty", [] { return std::string(); }, {"does not end with the table", "faultline pack"}},
    {"Short", [] { return std::string(16, 'x'); }, {"does not end with the table"}},
    {"Raw", [] { return textOf(PAGE); }, {"does not end with the table"}},
    {"PlainZstd",
     [] { return frameOf(textOf(PAGE)).packed; },
     {"written by zstd", "no table", WAY_OUT_FOREIGN}},
    {"Pzstd",
     [] { return skippable(0x184D2A50, "size").packed + frameOf(textOf(PAGE)).packed; },
     {"written by pzstd", "no table", WAY_OUT_FOREIGN}},
    {"NoChecksums", [] { return fileOf(pages(2), {.checksums = false}); }, {"no checksums", WAY_OUT_FOREIGN}},
    {"ReservedBits",
     [] { return fileOf(pages(2), {.descriptor = 4}); },
     {"reserved", "132", WAY_OUT_DAMAGED}},
    {"AnotherFrameThanATable",
     [] { return fileOf(pages(2), {.magic = 0x184D2A5D}); },
     {"no table begins at offset", WAY_OUT_DAMAGED}},
    {"MoreFramesThanItHas",
     [] { return fileOf(pages(3), {.moreFrames = 1}); },
     {"no table begins at offset", "4 frames"}},
    {"MoreFramesThanTheFileHasRoomFor",
     [] { return fileOf(pages(1), {.moreFrames = 100'000}); },
     {"100001 frames", "have no room", WAY_OUT_DAMAGED}},
    {"MoreFramesThanAreTaken",
     [] { return fileOf(pages(1), {.moreFrames = 1u << 27}); },
     {"134217729 frames", "at most 134217728"}},
    {"NoFrames", [] { return fileOf({}); }, {"no bytes"}},
    {"EmptyFramesAlone", [] { return fileOf({frameOf("")}); }, {"no bytes"}},
    {"AFrameThatEndsInTheTable",
     [] { return fileOf({changed(frameOf(textOf(PAGE)), [](MadeFrame& frame) { frame.packedBytes++; })}); },
     {"frame 0 ends at", "in the table", WAY_OUT_DAMAGED}},
    {"AFrameThatEndsBehindTheFile",
     [] {
       return fileOf({changed(frameOf(textOf(PAGE)), [](MadeFrame& frame) { frame.packedBytes = ~0u; })});
     },
     {"frame 0 ends at 4294967295", "in the table"}},
    // A longer one overlaps the next; at the end the frames reach into the table.
    {"FramesThatOverlap",
     [] {
       auto frames = pages(3);
       frames[0].packedBytes += 7;
       return fileOf(frames);
     },
     {"frame 2 ends at", "in the table"}},
    {"BytesThatNoFrameHas",
     [] {
       auto frames = pages(2);
       frames[1].packedBytes -= 7;
       return fileOf(frames);
     },
     {"its frames end at", "its table begins at", WAY_OUT_DAMAGED}},
    {"AFrameWithoutBytesInTheFile",
     [] {
       auto frames = pages(2);
       frames[1].packedBytes = 0;
       return fileOf(frames);
     },
     {"frame 1 has no bytes in the file"}},
    {"AFrameOfMoreThan2MiB",
     [] { return fileOf({frameOf(textOf((2u << 20) + PAGE))}); },
     {"frame 0 has 2101248 bytes", "at most 2097152", WAY_OUT_FOREIGN}},
    {"ABomb",
     [] {
       return fileOf({{std::string(20, 'x'), 20, 2u << 20, 0}});
     },
     {"frame 0 is said to have 2097152 bytes", "20 packed ones cannot hold", WAY_OUT_DAMAGED}},
    {"APackedFrameThatIsTooLarge",
     [] {
       return fileOf({{std::string(3u << 20, 'x'), 3u << 20, 4096, 0}});
     },
     {"frame 0 has 3145728 packed bytes"}},
    {"AFrameInsideAPage",
     [] {
       return fileOf({frameOf(textOf(PAGE + 1)), frameOf(textOf(PAGE))});
     },
     {"frame 1 begins at byte 4097", "inside a page", WAY_OUT_FOREIGN}},
    {"ManyEmptyFrames",
     [] {
       std::vector<MadeFrame> frames = pages(1);
       for (int i = 0; i < 17; i++) frames.push_back(frameOf(""));
       return fileOf(frames);
     },
     {"more than 16"}},
    {"AnEmptyFrameThatIsNone",
     [] {
       return fileOf({frameOf(textOf(PAGE)), {"something", 9, 0, 0}});
     },
     {"no frame begins at offset", WAY_OUT_DAMAGED}},
    {"AnEmptyFrameOfThreeBytes",
     [] {
       return fileOf({frameOf(textOf(PAGE)), {"som", 3, 0, 0}});
     },
     {"no frame begins at offset"}},
};

class TableRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(TableRefuses, WithTheReasonAndTheWayOut) {
  const MemoryFile file(GetParam().file());
  try {
    const Image image(file.fd(), "vm.packed", file.bytes());
    FAIL() << "it is taken";
  } catch (const Refused& refused) {
    EXPECT_THAT(refused.what(), HasSubstr("vm.packed can't be used as a packed image: "));
    for (const std::string& said : GetParam().said) EXPECT_THAT(refused.what(), HasSubstr(said));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, TableRefuses, testing::ValuesIn(REFUSALS),
                         [](const auto& info) { return info.param.name; });

// A sparse file costs nothing to make: it must cost as little to refuse.
TEST(SeekTable, AHugeTableOfNothingIsRefusedAtItsFirstFrame) {
  const std::string end = little(1u << 27, 4) + '\x80' + little(0x8F92EAB1, 4);
  const std::uint64_t content = 12ull * (1u << 27) + 9;
  const MemoryFile file(little(0x184D2A5E, 4) + little(content, 4));
  ASSERT_EQ(ftruncate(file.fd(), static_cast<off_t>(8 + content)), 0);
  ASSERT_EQ(pwrite(file.fd(), end.data(), end.size(), static_cast<off_t>(8 + content - end.size())),
            static_cast<ssize_t>(end.size()));
  try {
    const Image image(file.fd(), "huge", file.bytes());
    FAIL() << "it is taken";
  } catch (const Refused& refused) {
    EXPECT_THAT(refused.what(), HasSubstr("frame 0 has no bytes in the file"));
  }
}

TEST(SeekTable, HasAHashOfAllThatItSays) {
  const auto hashOf = [](const std::vector<MadeFrame>& frames) {
    const MemoryFile file(fileOf(frames));
    return packed::SeekTable(packed::FileBytes(file.fd(), "made", file.bytes())).hash();
  };
  auto frames = pages(3);
  const std::uint64_t hash = hashOf(frames);
  EXPECT_EQ(hashOf(pages(3)), hash);
  frames[1].checksum ^= 1;
  EXPECT_NE(hashOf(frames), hash);
}

}  // namespace
}  // namespace faultline::test
