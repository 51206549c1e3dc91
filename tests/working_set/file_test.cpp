// Working sets in files: written in one step, and only for the snapshot that they were recorded with.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/snapshot_identity.h"
#include "cli/working_set_file.h"
#include "tests/support/image.h"

namespace faultline::cli {
namespace {

using test::Image;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint64_t PAGE = 4096;

SnapshotIdentity identityOf(const Image& image) {
  return cli::identityOf(openMemory(image.path()).get());
}

WorkingSet setFor(const Image& image) {
  return {PAGE, identityOf(image), 0, {{3 * PAGE, PAGE}, {0, PAGE}}};
}

class WorkingSetFile : public testing::Test {
 protected:
  std::string path() const { return image_.directory() + "/set"; }
  std::string refusalFor(const Image& image) const {
    try {
      readWorkingSetFor(path(), openMemory(image.path()).get(), image.path());
    } catch (const CommandError& error) {
      EXPECT_EQ(error.code, USAGE);
      return error.what();
    }
    return "accepted";
  }
  std::string content() const {
    std::ifstream in(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  Image image_{1000 * PAGE};
};

TEST_F(WorkingSetFile, IsReadBackForItsSnapshot) {
  writeWorkingSet(path(), setFor(image_));
  EXPECT_EQ(readWorkingSetFor(path(), openMemory(image_.path()).get(), image_.path()), setFor(image_));
}

TEST_F(WorkingSetFile, OfASnapshotOfAnotherSizeIsRefused) {
  writeWorkingSet(path(), setFor(image_));
  const Image longer(1001 * PAGE);
  EXPECT_THAT(refusalFor(longer),
              AllOf(HasSubstr(path()), HasSubstr("another snapshot (4096000 bytes, fingerprint"),
                    HasSubstr(longer.path() + " (4100096 bytes, fingerprint"),
                    HasSubstr("record one with this snapshot, or leave it out")));
}

TEST_F(WorkingSetFile, OfASnapshotWithOtherBytesIsRefused) {
  writeWorkingSet(path(), setFor(image_));
  for (const std::uint64_t place : {std::uint64_t{0}, 1000 * PAGE - 1}) {
    Image other(1000 * PAGE);
    other.fill(place, 1, static_cast<unsigned char>(other.at(place) ^ 1));
    EXPECT_THAT(refusalFor(other), HasSubstr("was recorded with another snapshot")) << place;
  }
}

// Every page of a snapshot of up to 256 pages is looked at, so a difference anywhere is seen.
TEST_F(WorkingSetFile, OfASmallSnapshotEveryByteCounts) {
  const Image small(256 * PAGE);
  const SnapshotIdentity before = identityOf(small);
  for (std::uint64_t page = 0; page < 256; page++) {
    Image other(256 * PAGE);
    ASSERT_EQ(identityOf(other), before);
    other.fill(page * PAGE + 77, 1, static_cast<unsigned char>(other.at(page * PAGE + 77) ^ 0x80));
    EXPECT_NE(identityOf(other), before) << page;
  }
}

TEST_F(WorkingSetFile, AnIdentityIsTheSameEachTime) {
  EXPECT_EQ(identityOf(image_), identityOf(image_));
  EXPECT_EQ(identityOf(image_).bytes, image_.bytes());
}

TEST_F(WorkingSetFile, CutOffIsRefusedWithItsName) {
  writeWorkingSet(path(), setFor(image_));
  std::filesystem::resize_file(path(), 60);
  EXPECT_THAT(refusalFor(image_), AllOf(HasSubstr("working set " + path()), HasSubstr("cut off")));
}

TEST_F(WorkingSetFile, DamagedIsRefusedWithItsName) {
  writeWorkingSet(path(), setFor(image_));
  std::fstream(path(), std::ios::in | std::ios::out | std::ios::binary).seekp(50).put('x');
  EXPECT_THAT(refusalFor(image_), AllOf(HasSubstr("working set " + path()), HasSubstr("damaged")));
}

TEST_F(WorkingSetFile, WhatIsNoFileIsRefused) {
  EXPECT_THAT(refusalFor(image_), HasSubstr("No such file"));
  std::filesystem::create_directory(path());
  EXPECT_THAT(refusalFor(image_), HasSubstr("no regular file"));
  std::filesystem::remove(path());
  ASSERT_EQ(mkfifo(path().c_str(), 0600), 0);
  EXPECT_THAT(refusalFor(image_), HasSubstr("no regular file"));
}

TEST_F(WorkingSetFile, TooLargeIsRefusedUnread) {
  std::ofstream(path()) << "x";
  std::filesystem::resize_file(path(), std::uint64_t{1} << 40);
  EXPECT_THAT(refusalFor(image_),
              HasSubstr("it has 1099511627776 bytes; a recorded working set has at most"));
}

TEST_F(WorkingSetFile, ReplacesAFormerOneAndLeavesNothingBeside) {
  std::ofstream(path()) << "former";
  writeWorkingSet(path(), setFor(image_));
  EXPECT_EQ(content().size(), 48u + 2 * 16 + 4);
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(image_.directory())) files++;
  EXPECT_EQ(files, 2u);  // the image and the set
}

// The folder takes no new file: the former one stays as it was.
TEST_F(WorkingSetFile, ThatCannotBeWrittenLeavesTheFormerOne) {
  const std::string in = image_.directory() + "/gone/set";
  EXPECT_THROW(requireWritable(in), CommandError);
  try {
    writeWorkingSet(in, setFor(image_));
    FAIL() << "written into a folder that is not there";
  } catch (const CommandError& error) {
    EXPECT_EQ(error.code, FAILED);
    EXPECT_THAT(error.what(), AllOf(HasSubstr(in), HasSubstr("No such file")));
  }
  // A folder under the name: all is written, only the last step fails.
  std::filesystem::create_directories(path() + "/x");
  EXPECT_THROW(requireWritable(path()), CommandError);
  EXPECT_THROW(writeWorkingSet(path(), setFor(image_)), CommandError);
  EXPECT_TRUE(std::filesystem::is_directory(path()));
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(image_.directory())) files++;
  EXPECT_EQ(files, 2u);
}

}  // namespace
}  // namespace faultline::cli
