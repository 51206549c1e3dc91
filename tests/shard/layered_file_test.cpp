// A stack of layers as a source: which layer a page is read from, found out where waiting is allowed.

#include "shard/source/layered_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "shard/source/bus_guard.h"
#include "tests/support/stack.h"

namespace faultline::shard {
namespace {

using test::Stack;

constexpr std::uint64_t PAGE = 4096, PIECE = PageSource::PIECE, WINDOW = PageSource::WINDOW;

std::shared_ptr<LayeredFile> sourceOf(const std::vector<int>& files, std::uint64_t bytes) {
  std::vector<LayeredFile::File> layers;
  for (const int file : files)
    layers.push_back({kj::AutoCloseFd(file), "layer-" + std::to_string(layers.size())});
  return std::make_shared<LayeredFile>(std::move(layers), bytes);
}

std::shared_ptr<LayeredFile> sourceOf(const Stack& stack) {
  std::vector<int> files;
  for (const std::string& path : stack.paths()) files.push_back(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return sourceOf(files, stack.shown().bytes());
}

class Layered : public testing::Test {
 protected:
  Layered() { installBusGuard(); }

  // The bytes that the source must give for the range.
  static void expectShown(const Stack& stack, const Staged& staged, std::uint64_t offset,
                          std::uint64_t length) {
    const char* shown = stack.shown().data() + offset;
    if (staged.kind == Staged::Kind::zero) {
      const std::vector<char> zeros(length);
      ASSERT_EQ(std::memcmp(shown, zeros.data(), length), 0) << offset << "+" << length;
      return;
    }
    ASSERT_EQ(staged.kind, Staged::Kind::bytes) << offset << "+" << length << ", error " << staged.error;
    ASSERT_EQ(std::memcmp(shown, staged.data, length), 0) << offset << "+" << length;
  }
  // Reads as a reader thread does.
  Staged readAll(const PageSource& source, std::uint64_t offset, std::uint64_t length) {
    Staged staged = source.readFrom(offset, length).read(offset, length, buffer_.data());
    if (staged.kind == Staged::Kind::cold)
      staged = source.readFrom(offset, length).read(offset, length, buffer_.data());
    return staged;
  }

  std::vector<char> buffer_ = std::vector<char>(PIECE);
};

TEST_F(Layered, NothingIsKnownBeforeAReaderHasLooked) {
  Stack stack(2 * PIECE, 3);
  stack.data(0, 5, 1);
  const auto source = sourceOf(stack);
  EXPECT_EQ(source->tryRead(0, PAGE, buffer_.data()).kind, Staged::Kind::cold);
  EXPECT_EQ(&source->readFrom(5 * PAGE, PAGE), source.get());
  EXPECT_EQ(source->read(5 * PAGE, PAGE, buffer_.data()).kind, Staged::Kind::cold) << "it only looks";
  EXPECT_NE(&source->readFrom(5 * PAGE, PAGE), source.get());
  EXPECT_EQ(source->fileOf(5 * PAGE), "layer-0");
  expectShown(stack, source->tryRead(5 * PAGE, PAGE, buffer_.data()), 5 * PAGE, PAGE);
  EXPECT_EQ(source->tryRead(6 * PAGE, PAGE, buffer_.data()).kind, Staged::Kind::cold)
      << "the layers below were not asked";
  EXPECT_EQ(source->read(6 * PAGE, PAGE, buffer_.data()).kind, Staged::Kind::cold);
  EXPECT_EQ(source->fileOf(6 * PAGE), "layer-2");
  EXPECT_EQ(source->fileOf(7 * PAGE), "layer-2") << "a look is for the whole piece";
  EXPECT_EQ(source->tryRead(PIECE, PAGE, buffer_.data()).kind, Staged::Kind::cold) << "and for no other";
}

TEST_F(Layered, EveryWayGivesWhatTheFlattenedFileHas) {
  for (std::uint64_t seed = 0; seed < 20; seed++) {
    SCOPED_TRACE(seed);
    const Stack stack = Stack::random(2 * PIECE, seed);
    const auto source = sourceOf(stack);
    for (const std::uint64_t length : {PAGE, WINDOW, PIECE})
      for (std::uint64_t offset = 0; offset < 2 * PIECE; offset += length) {
        expectShown(stack, readAll(*source, offset, length), offset, length);
        const Staged now = source->tryRead(offset, length, buffer_.data());
        if (now.kind != Staged::Kind::cold) expectShown(stack, now, offset, length);
        for (const Staged& view : {source->readInPlace(offset, length), source->tryView(offset, length)}) {
          if (view.kind == Staged::Kind::cold) continue;
          expectShown(stack, view, offset, length);
          EXPECT_TRUE(view.kind != Staged::Kind::bytes || view.data == source->view(offset)) << offset;
        }
        source->release(offset, length);
      }
  }
}

TEST_F(Layered, OnlyAHoleOfAllIsZeroForGood) {
  Stack stack(PIECE, 2);
  stack.hole(0, 512);
  stack.zeros(0, 8, 1);
  const auto source = sourceOf(stack);
  EXPECT_FALSE(source->zeroForGood(0, PAGE)) << "nobody has looked";
  readAll(*source, 0, PIECE);
  EXPECT_TRUE(source->zeroForGood(0, 8 * PAGE));
  EXPECT_FALSE(source->zeroForGood(8 * PAGE, PAGE)) << "zeros that are data";
  EXPECT_FALSE(source->zeroForGood(0, PIECE));
}

// In memory a hole becomes data when it is read through a mapping, and would hide what is below.
TEST_F(Layered, HolesOfALayerInMemoryStayHoles) {
  const int top = memfd_create("top", MFD_CLOEXEC), base = memfd_create("base", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(top, 2 * PIECE), 0);
  std::vector<char> bytes(2 * PIECE, 'b');
  ASSERT_EQ(pwrite(base, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  const std::vector<char> page(PAGE, 't');
  for (const std::uint64_t at : {std::uint64_t{0}, 20 * PAGE, PIECE})
    ASSERT_EQ(pwrite(top, page.data(), PAGE, static_cast<off_t>(at)), static_cast<ssize_t>(PAGE));
  const auto source = sourceOf({top, base}, 2 * PIECE);
  for (const std::uint64_t length : {PAGE, WINDOW, PIECE})
    for (std::uint64_t offset = 0; offset < 2 * PIECE; offset += length) {
      const Staged staged = readAll(*source, offset, length);
      ASSERT_EQ(staged.kind, Staged::Kind::bytes) << offset;
      const bool ofTop = offset == 0 || offset == PIECE || (offset == 20 * PAGE && length == PAGE);
      EXPECT_EQ(*static_cast<const char*>(staged.data), ofTop ? 't' : 'b') << offset << "+" << length;
      source->tryView(offset, length);
      source->readInPlace(offset, length);
    }
  EXPECT_EQ(lseek(top, 0, SEEK_HOLE), static_cast<off_t>(PAGE));
  EXPECT_EQ(lseek(top, PAGE, SEEK_DATA), static_cast<off_t>(20 * PAGE));
  EXPECT_EQ(lseek(top, 21 * PAGE, SEEK_DATA), static_cast<off_t>(PIECE));
  EXPECT_EQ(lseek(top, PIECE + PAGE, SEEK_DATA), -1);
}

TEST_F(Layered, AChangedLayerIsToldForItsOwnPages) {
  Stack stack(2 * PIECE, 3);
  stack.data(1, 100, 10);
  stack.data(0, 200, 10);
  const auto source = sourceOf(stack);
  readAll(*source, 0, PIECE);
  EXPECT_EQ(source->whatChanged(0, 2 * PIECE), std::nullopt);
  stack.layer(1).fill(105 * PAGE, PAGE, 0x77);
  EXPECT_EQ(source->whatChanged(100 * PAGE, PAGE).value_or(""),
            "layer layer-1 has been written to since the restore began");
  EXPECT_EQ(source->whatChanged(200 * PAGE, PAGE), std::nullopt) << "another layer's";
  EXPECT_NE(source->whatChanged(PIECE, PAGE), std::nullopt) << "whose it is must still be asked";
  const Staged staged = readAll(*source, PIECE, PAGE);
  EXPECT_EQ(staged.kind, Staged::Kind::lost) << "what it says of its holes is not believed";
  EXPECT_EQ(staged.error, ESTALE);
}

}  // namespace
}  // namespace faultline::shard
