// The format of a recorded working set: a written file is read back, and no other bytes are accepted.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/working_set.h"

namespace faultline::cli {
namespace {

using testing::HasSubstr;

constexpr std::size_t VERSION_AT = 8, PAGE_SIZE_AT = 12, COUNT_AT = 40, RANGES_AT = 48;

WorkingSet sample() {
  return {4096, {1 << 20, 0x0123456789abcdef}, 7, {{40960, 8192}, {0, 4096}, {(1 << 20) - 4096, 4096}}};
}

using Bytes = std::vector<std::byte>;

void put(Bytes& bytes, std::size_t at, std::uint64_t value, std::size_t size = 8) {
  for (std::size_t i = 0; i < size; i++) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

// CRC-32C by the book, a bit at a time, so that a mistake of the code under test is not made here again.
void seal(Bytes& bytes) {
  std::uint32_t crc = ~0u;
  for (std::size_t i = 0; i + 4 < bytes.size(); i++) {
    crc ^= std::to_integer<std::uint32_t>(bytes[i]);
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  put(bytes, bytes.size() - 4, ~crc, 4);
}

// A sample with one number changed and its checksum made right again.
Bytes with(std::size_t at, std::uint64_t value, std::size_t size = 8) {
  Bytes bytes = formatWorkingSet(sample());
  put(bytes, at, value, size);
  seal(bytes);
  return bytes;
}

std::string refusalOf(const Bytes& bytes) {
  try {
    parseWorkingSet(bytes);
  } catch (const WorkingSetError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(WorkingSetFormat, IsReadBack) {
  EXPECT_EQ(parseWorkingSet(formatWorkingSet(sample())), sample());
  const WorkingSet empty{2 << 20, {4096, 1}, 0, {}};
  EXPECT_EQ(parseWorkingSet(formatWorkingSet(empty)), empty);
}

// The layout is what docs/working-set.md says; a recording outlives the program that made it.
TEST(WorkingSetFormat, IsAsDescribed) {
  Bytes bytes = formatWorkingSet(sample());
  ASSERT_EQ(bytes.size(), 48u + 3 * 16 + 4);
  const unsigned char head[] = {0x89, 'F', 'L', 'W', '\r', '\n', 0x1a, '\n', 1, 0, 0, 0, 0, 0x10, 0, 0};
  for (std::size_t i = 0; i < sizeof head; i++) EXPECT_EQ(bytes[i], static_cast<std::byte>(head[i])) << i;
  Bytes same = bytes;
  put(same, 16, 1 << 20);
  put(same, 24, 0x0123456789abcdef);
  put(same, 32, 7);
  put(same, COUNT_AT, 3);
  put(same, RANGES_AT, 40960);
  put(same, RANGES_AT + 8, 8192);
  seal(same);
  EXPECT_EQ(same, bytes);
}

TEST(WorkingSetFormat, CutOffAnywhereIsRefused) {
  const Bytes bytes = formatWorkingSet(sample());
  for (std::size_t size = 0; size < bytes.size(); size++) {
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THAT(refusalOf(cut), HasSubstr(size < 8 ? "no recorded working set" : "cut off")) << size;
  }
}

TEST(WorkingSetFormat, LongerThanItSaysIsRefused) {
  Bytes bytes = formatWorkingSet(sample());
  bytes.resize(bytes.size() + 1);
  EXPECT_THAT(refusalOf(bytes), HasSubstr("something follows it: it has 101 bytes and says 100"));
}

TEST(WorkingSetFormat, EveryFlippedBitIsRefused) {
  const Bytes bytes = formatWorkingSet(sample());
  for (std::size_t bit = 0; bit < bytes.size() * 8; bit++) {
    Bytes flipped = bytes;
    flipped[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_NE(refusalOf(flipped), "accepted") << "bit " << bit;
  }
}

TEST(WorkingSetFormat, DamageIsNamed) {
  Bytes bytes = formatWorkingSet(sample());
  bytes[RANGES_AT] ^= std::byte{1};
  EXPECT_THAT(refusalOf(bytes), HasSubstr("it is damaged: its checksum is"));
}

TEST(WorkingSetFormat, AnotherVersionIsRefused) {
  EXPECT_THAT(refusalOf(with(VERSION_AT, 2, 4)),
              HasSubstr("version 2, this program reads version 1; record it anew"));
}

TEST(WorkingSetFormat, AnUnknownPageSizeIsRefused) {
  for (const std::uint64_t size : {0u, 1u, 8192u, 1u << 30})
    EXPECT_THAT(refusalOf(with(PAGE_SIZE_AT, size, 4)),
                HasSubstr("page size is " + std::to_string(size) + " bytes"));
}

TEST(WorkingSetFormat, ACountThatCannotBeIsRefused) {
  // The last one times 16 is 48 after it has wrapped around.
  for (const std::uint64_t count : {std::uint64_t{1} << 21, ~std::uint64_t{0}, (std::uint64_t{1} << 60) + 3})
    EXPECT_THAT(refusalOf(with(COUNT_AT, count)), HasSubstr("says that it has " + std::to_string(count)));
  EXPECT_THAT(refusalOf(with(COUNT_AT, 2)), HasSubstr("something follows it"));
  EXPECT_THAT(refusalOf(with(COUNT_AT, 4)), HasSubstr("cut off"));
}

TEST(WorkingSetFormat, RangesOutsideOfTheSnapshotAreRefused) {
  EXPECT_THAT(refusalOf(with(RANGES_AT, 1 << 20)), HasSubstr("range 0 (offset 1048576, 8192 bytes) reaches"));
  EXPECT_THAT(refusalOf(with(RANGES_AT, (1 << 20) - 4096)), HasSubstr("past the end of its snapshot"));
  // Their sum wraps around to 0.
  EXPECT_THAT(refusalOf(with(RANGES_AT, ~std::uint64_t{0} - 8191)), HasSubstr("past the end"));
  EXPECT_THAT(refusalOf(with(RANGES_AT + 8, ~std::uint64_t{0} - 4095)), HasSubstr("past the end"));
}

TEST(WorkingSetFormat, RangesThatAreNotWholePagesAreRefused) {
  EXPECT_THAT(refusalOf(with(RANGES_AT, 40961)), HasSubstr("not made of whole pages of 4096"));
  EXPECT_THAT(refusalOf(with(RANGES_AT + 8, 100)), HasSubstr("not made of whole pages"));
  EXPECT_THAT(refusalOf(with(RANGES_AT + 8, 0)), HasSubstr("not made of whole pages"));
  EXPECT_THAT(refusalOf(with(PAGE_SIZE_AT, 2 << 20, 4)), HasSubstr("whole pages of 2097152"));
}

TEST(WorkingSetFormat, APageNamedTwiceIsRefused) {
  EXPECT_THAT(refusalOf(with(RANGES_AT + 16, 45056)), HasSubstr("the page at offset 45056 twice"));
  EXPECT_THAT(refusalOf(with(RANGES_AT + 16, 40960)), HasSubstr("the page at offset 40960 twice"));
}

TEST(WorkingSetFormat, WhatIsNotReadIsNotWritten) {
  WorkingSet set = sample();
  set.ranges.push_back({0, 4096});
  EXPECT_THROW(formatWorkingSet(set), WorkingSetError);
}

}  // namespace
}  // namespace faultline::cli
