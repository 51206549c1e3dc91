// faultline's own frame in a packed image.

#include "packed/description.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <functional>
#include <span>

#include "packed/error.h"
#include "packed/image.h"
#include "packed/unpack.h"
#include "tests/packed/made_file.h"

namespace faultline::test {
namespace {

using packed::Description;
using packed::Image;
using packed::Kind;
using packed::LayerMap;
using packed::PAGE;
using packed::Refused;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string bytesOf(const Description& description) {
  const auto frame = packed::formatDescription(description);
  return {reinterpret_cast<const char*>(frame.data()), frame.size()};
}

Description parsed(const std::string& frame) {
  return packed::parseDescription(std::as_bytes(std::span(frame)));
}

// The checksum made right.
std::string sealed(std::string frame) {
  frame.resize(frame.size() - 8);
  return frame + little(XXH64(frame.data(), frame.size(), 0), 8);
}

LayerMap somePages() {
  LayerMap map;
  map.append(3 * PAGE, Kind::below);
  map.append(PAGE, Kind::data);
  map.append(2 * PAGE, Kind::zero);
  map.append(100, Kind::below);
  return map;
}

TEST(Description, IsReadAsItWasWritten) {
  const Description read = parsed(bytesOf({0x1122334455667788, 77, somePages()}));
  EXPECT_EQ(read.base, 0x1122334455667788u);
  EXPECT_EQ(read.tableHash, 77u);
  EXPECT_EQ(bytesOf(read), bytesOf({0x1122334455667788, 77, somePages()}));
  EXPECT_FALSE(parsed(bytesOf({{}, 1, LayerMap(PAGE, Kind::data)})).base.has_value());
}

// docs/packed.md has them, too.
TEST(Description, HasTheBytesThatAreDocumented) {
  LayerMap map;
  map.append(2 * PAGE, Kind::below);
  map.append(PAGE, Kind::data);
  const std::string frame = little(0x184D2A57, 4) + little(56, 4) +
                            "\x89"
                            "FLP\r\n\x1a\n" +
                            little(1, 4) + little(1, 4) + little(3 * PAGE, 8) + little(0xabcd, 8) +
                            little(0x1234, 8) + little(2u << 30 | 2, 4) + little(1, 4);
  EXPECT_EQ(bytesOf({0xabcd, 0x1234, map}), sealed(frame + "checksum"));
}

// 2^30 pages and more do not fit a run.
TEST(Description, RunsOfManyPagesAreSeveral) {
  LayerMap map;
  map.append(PAGE << 31, Kind::below);
  map.append(PAGE, Kind::data);
  const std::string frame = bytesOf({1, 2, map});
  EXPECT_EQ(frame.size(), packed::descriptionBytes(map));
  EXPECT_EQ(frame.size(), 48u + 4 * 4 + 8);
  const Description read = parsed(frame);
  EXPECT_EQ(read.map.size(), 2u);
  EXPECT_EQ(read.map.bytesOf(Kind::below), PAGE << 31);
}

void refuses(const std::string& frame, const std::string& why) {
  try {
    parsed(frame);
    FAIL() << "it is taken, with " << why;
  } catch (const Refused& refused) {
    EXPECT_THAT(refused.what(), HasSubstr(why));
  }
}

std::string with(std::size_t at, const std::string& bytes) {
  std::string frame = bytesOf({5, 6, somePages()});
  return sealed(frame.replace(at, bytes.size(), bytes));
}

TEST(Description, IsRefusedWithTheReason) {
  const std::string sound = bytesOf({5, 6, somePages()});
  refuses(sound.substr(0, 40), "a length that none has");
  refuses(sound.substr(0, sound.size() - 3), "a length that none has");
  refuses(sound.substr(0, sound.size() - 4), "wrong checksum");
  refuses(with(8, "x"), "wrong header");
  refuses(with(4, "x"), "wrong header");
  refuses(with(0, "x"), "wrong header");
  refuses(with(16, little(2, 4)), "version 2, and this build knows 1");
  refuses(with(20, little(3, 4)), "flags that this build does not know (3)");
  refuses(with(20, little(0, 4)), "map of a full one");
  refuses(with(24, little(100, 8)), "ends behind the image, which has 100 bytes");
  refuses(with(24, little(9 * PAGE, 8)), "for 28672 bytes, and an image of 36864");
  refuses(with(48, little(0, 4)), "run 0 is no run (0)");
  refuses(with(48, little(3u << 30 | 3, 4)), "run 0 is no run");
  refuses(with(48, little(2u << 30 | 30, 4)), "ends behind the image");
}

// --- in a file ---

// A differential image of one page that is data and one that is not.
std::vector<MadeFrame> described(const std::function<void(Description&)>& change,
                                 const std::string& second = std::string(PAGE, '\0')) {
  std::vector<MadeFrame> frames = {frameOf(textOf(PAGE) + second)};
  LayerMap map;
  map.append(PAGE, Kind::data);
  map.append(PAGE, Kind::below);
  Description description{5, 0, map};
  change(description);
  frames.push_back(skippable(0x184D2A57, std::string(packed::descriptionBytes(description.map) - 8, '\0')));
  const std::string table = tableOf(frames);
  if (description.tableHash == 0) description.tableHash = XXH64(table.data() + 8, table.size() - 17, 0);
  frames.back().packed = bytesOf(description);
  return frames;
}

void refusesFile(const std::vector<MadeFrame>& frames, const std::string& why) {
  const MemoryFile file(fileOf(frames));
  try {
    const Image image(file.fd(), "diff", file.bytes());
    FAIL() << "it is taken, with " << why;
  } catch (const Refused& refused) {
    EXPECT_THAT(refused.what(), AllOf(HasSubstr("diff can't be used as a packed image: "), HasSubstr(why),
                                      HasSubstr("pack the image again")));
  }
}

TEST(Description, SaysWhatAnImageIs) {
  const MemoryFile file(fileOf(described([](Description&) {})));
  const Image image(file.fd(), "diff", file.bytes());
  EXPECT_TRUE(image.isDescribed());
  EXPECT_EQ(image.base(), 5u);
  EXPECT_TRUE(image.map().isAll(PAGE, 2 * PAGE, Kind::below));
}

TEST(Description, IsRefusedWhereItIsNotOfThisFile) {
  refusesFile(described([](Description& d) { d.tableHash = 99; }),
              "its table is not the one that was written");
  refusesFile(described([](Description& d) { d.map = LayerMap(3 * PAGE, Kind::data); }),
              "an image of 12288 bytes, and its frames have 8192");
  // Its runs could be as many as the pages of an image of 8 MiB.
  refusesFile({frameOf(textOf(PAGE)), skippable(0x184D2A57, std::string(100, '\0'))},
              "more than its 4096 can need");
  auto twice = described([](Description&) {});
  twice.push_back(twice.back());
  refusesFile(twice, "its table is not the one");
}

// zstd would show other bytes than a restore does.
TEST(Description, WhatItHasAsAHoleMustBeZerosForZstd) {
  const MemoryFile file(fileOf(described([](Description&) {}, std::string(PAGE - 1, '\0') + "x")));
  const Image image(file.fd(), "diff", file.bytes());
  try {
    packed::check(image, [](std::uint64_t) {});
    FAIL() << "it is taken";
  } catch (const packed::Damaged& damaged) {
    EXPECT_THAT(damaged.what(), AllOf(HasSubstr("diff: frame 0"), HasSubstr("other bytes than zeros at 4096"),
                                      HasSubstr("pack the image again")));
  }
}

// A frame that was one of these is not another program's, to be skipped: the holes would be zeros.
TEST(Description, IsNotOverlookedWhereItsHeaderIsDamaged) {
  auto frames = described([](Description&) {});
  frames.back().packed[0] = '\x56';
  refusesFile(frames, "wrong checksum");
  frames = described([](Description&) {});
  frames.back().packed[9] = 'x';
  refusesFile(frames, "wrong checksum");
}

}  // namespace
}  // namespace faultline::test
