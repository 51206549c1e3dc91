// libfaultline-preload.so in a program that maps files as its memory: which mappings it takes, what comes
// into them, and what it says where it cannot. docs/preload.md says the same to its users.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "process/process.h"
#include "tests/support/image.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"

namespace faultline::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t MIB = 1u << 20;

struct Outcome {
  int status;                      // exit code, or 128 + signal
  std::vector<std::string> lines;  // of stdout
  std::string errors;              // all of stderr
};

class Preload : public ::testing::Test {
 protected:
  // A file of nothing but a size, to be mapped as memory.
  std::string standIn(const std::string& name, std::uint64_t bytes) const {
    const std::string path = image_.directory() + "/" + name;
    std::ofstream(path).close();
    if (truncate(path.c_str(), static_cast<off_t>(bytes)) != 0) ADD_FAILURE() << path;
    return path;
  }

  // The probe with the library in it. `settings`: VARIABLE=VALUE, of the library.
  Outcome run(const std::vector<std::string>& settings, const std::string& commands) const {
    const std::string errors = image_.directory() + "/errors";
    std::string line = "exec env LD_PRELOAD=" FAULTLINE_PRELOAD;
    for (const std::string& setting : settings) line += " '" + setting + "'";
    line += " " + process::siblingExecutable("preload-probe") + " " + commands + " 2>" + errors;
    Outcome outcome{-1, {}, {}};
    FILE* out = popen(line.c_str(), "re");
    char text[256];
    while (fgets(text, sizeof text, out) != nullptr) {
      outcome.lines.emplace_back(text);
      outcome.lines.back().pop_back();
    }
    const int status = pclose(out);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.errors = textOf(errors);
    return outcome;
  }
  std::vector<std::string> settings(const std::string& memory) const {
    return {"FAULTLINE_PRELOAD_SOCKET=" + server_.socket(), "FAULTLINE_PRELOAD_MEMORY=" + memory};
  }
  std::string byteAt(std::uint64_t offset) const { return std::to_string(image_.at(offset)); }

  Image image_{16 * MIB};
  Server server_{image_};
};

TEST_F(Preload, AFileThatIsNamedIsMemoryOfTheSnapshot) {
  const std::string file = standIn("ram", 16 * MIB);
  const Outcome outcome = run(settings(file), "map " + file + " read 0 0 read 0 4113 read 0 16777215");
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.lines, ElementsAre("mapped", byteAt(0), byteAt(4113), byteAt(16 * MIB - 1)));
  EXPECT_THAT(outcome.errors, HasSubstr("faultline-preload: 1 region, 16777216 bytes of the snapshot, from " +
                                        server_.socket()));
}

TEST_F(Preload, TheFileIsToldByWhatItIsAndNotByItsPath) {
  const std::string file = standIn("ram", MIB), link = image_.directory() + "/link";
  ASSERT_EQ(symlink(file.c_str(), link.c_str()), 0);
  EXPECT_THAT(run(settings(link), "map " + file + " read 0 17").lines, ElementsAre("mapped", byteAt(17)));
}

TEST_F(Preload, OtherMappingsAreLeftAlone) {
  const std::string file = standIn("ram", MIB), other = image_.path();
  const Outcome outcome = run(
      settings(file), "map " + other + " read 0 17 dontneed 0 0 4096 read 0 17 remove 0 0 4096 read 0 17");
  EXPECT_EQ(outcome.status, 0);
  const std::string before = byteAt(4096);  // the file's byte; its first page was removed from it
  EXPECT_THAT(outcome.lines,
              ElementsAre("mapped", ::testing::_, "given back", ::testing::_, "given back", "0"));
  EXPECT_EQ(outcome.lines[1], outcome.lines[3]);
  EXPECT_THAT(outcome.errors, IsEmpty());
  EXPECT_EQ(server_.status().getRestores().size(), 0u);
}

TEST_F(Preload, WithoutSettingsItDoesNothing) {
  const std::string file = standIn("ram", MIB);
  const Outcome outcome = run({}, "map " + file + " read 0 17 write 0 17 read 0 17");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.lines, ElementsAre("mapped", "0", "165"));
  EXPECT_THAT(outcome.errors, IsEmpty());
}

TEST_F(Preload, SeveralRegionsFollowOneAnotherInTheMemoryFile) {
  const std::string first = standIn("a", 4 * MIB), second = standIn("b", 2 * MIB),
                    third = standIn("c", 8 * MIB);
  // Mapped in another order than named.
  const Outcome outcome =
      run(settings(first + "," + second + "," + third),
          "map " + third + " map " + first + " map " + second + " read 0 33 read 1 33 read 2 33");
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.lines, ElementsAre("mapped", "mapped", "mapped", byteAt(6 * MIB + 33), byteAt(33),
                                         byteAt(4 * MIB + 33)));
  EXPECT_THAT(outcome.errors, HasSubstr("3 regions, 14680064 bytes"));
}

TEST_F(Preload, ARegionMayBeginAnywhereInTheMemoryFile) {
  const std::string first = standIn("a", 4 * MIB), second = standIn("b", 2 * MIB);
  const Outcome outcome = run(settings(first + "@8388608," + second + "@4096"),
                              "map " + first + " map " + second + " read 0 33 read 1 33");
  EXPECT_THAT(outcome.lines, ElementsAre("mapped", "mapped", byteAt(8 * MIB + 33), byteAt(4096 + 33)))
      << outcome.errors;
}

// A touch before would read the zeros of memory that no page server has yet.
TEST_F(Preload, MemoryCannotBeTouchedBeforeAllOfItIsMapped) {
  const std::string first = standIn("a", 4 * MIB), second = standIn("b", 2 * MIB);
  const Outcome outcome = run(settings(first + "," + second), "map " + first + " read 0 33 map " + second);
  EXPECT_EQ(outcome.status, 128 + SIGSEGV);
  EXPECT_THAT(outcome.lines, ElementsAre("mapped"));
}

// Pages 0 to 2 are untouched, page 3 was read, page 4 written.
TEST_F(Preload, WhatIsGivenBackReadsAsZerosWhicheverWayItIsDone) {
  const std::string file = standIn("ram", MIB);
  for (const std::string way : {"dontneed", "remove", "punch"}) {
    const Outcome outcome =
        run(settings(file), "map " + file + " read 0 12300 write 0 16400 " + way +
                                " 0 0 20480 read 0 17 read 0 12300 read 0 16400 read 0 20500");
    EXPECT_THAT(outcome.lines,
                ElementsAre("mapped", byteAt(12300), "given back", "0", "0", "0", byteAt(20500)))
        << way << outcome.errors;
  }
}

TEST_F(Preload, NothingIsWrittenToTheFile) {
  const std::string file = standIn("ram", MIB);
  run(settings(file), "map " + file + " write 0 17 punch 0 4096 4096 write 0 4100");
  struct stat status {};
  ASSERT_EQ(stat(file.c_str(), &status), 0);
  EXPECT_EQ(status.st_blocks, 0);
  EXPECT_EQ(status.st_size, static_cast<off_t>(MIB));
}

TEST_F(Preload, MemoryThatWasUnmappedIsNotItsOwnAnyMore) {
  const std::string file = standIn("ram", MIB);
  const Outcome outcome = run(settings(file), "map " + file + " read 0 17 unmap 0 punch 0 0 4096 map " +
                                                  image_.path() + " read 1 5000");
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.lines, ElementsAre("mapped", byteAt(17), "given back", "mapped", byteAt(5000)));
}

TEST_F(Preload, AFileOnHugetlbfsIsMemoryOfHugePages) {
  if (!hugePagesAvailable(4)) GTEST_SKIP() << "no 4 free huge pages; echo 128 > /proc/sys/vm/nr_hugepages";
  // Inherited, so that it has a path in the probe, too.
  const int fd = memfd_create("ram", MFD_HUGETLB | MFD_HUGE_2MB);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, 4 * MIB), 0);
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  for (const std::string way : {"dontneed", "punch"}) {
    const Outcome outcome =
        run(settings(path), "map " + path + " read 0 17 " + way + " 0 0 2097152 read 0 17 read 0 2097169");
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    EXPECT_THAT(outcome.lines, ElementsAre("mapped", byteAt(17), "given back", "0", byteAt(2 * MIB + 17)))
        << way;
  }
  close(fd);
}

TEST_F(Preload, ASecondMappingIsRefused) {
  const std::string file = standIn("ram", MIB);
  const Outcome outcome = run(settings(file), "map " + file + " map " + file + " read 0 17");
  EXPECT_THAT(outcome.lines, ElementsAre("mapped", "failed EBUSY", byteAt(17)));
  EXPECT_THAT(outcome.errors,
              HasSubstr("cannot take the memory of " + file + ": it is mapped a second time"));
}

TEST_F(Preload, ASizeThatIsNoMultipleOfThePageSizeIsRefused) {
  const std::string file = standIn("ram", 5000);
  const Outcome outcome = run(settings(file), "map " + file);
  EXPECT_THAT(outcome.lines, ElementsAre("failed EINVAL"));
  EXPECT_THAT(outcome.errors, HasSubstr("multiple of its pages' size"));
}

TEST_F(Preload, WithoutAPageServerTheMappingFails) {
  const std::string file = standIn("ram", MIB), nowhere = image_.directory() + "/nowhere";
  const Outcome outcome = run({"FAULTLINE_PRELOAD_SOCKET=" + nowhere, "FAULTLINE_PRELOAD_MEMORY=" + file,
                               "FAULTLINE_PRELOAD_TIMEOUT_MS=20"},
                              "map " + file);
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.lines, ElementsAre("failed ENOENT"));
  EXPECT_THAT(outcome.errors, HasSubstr("faultline-preload: cannot take the memory of " + file));
  EXPECT_THAT(outcome.errors, HasSubstr("no page server listens at " + nowhere));
}

TEST_F(Preload, SettingsThatMakeNoSenseEndTheProgramBeforeItBegins) {
  std::string many = "/a";
  for (unsigned i = 0; i < 64; i++) many += ",/a";
  const std::string socket = "FAULTLINE_PRELOAD_SOCKET=/s", memory = "FAULTLINE_PRELOAD_MEMORY=/m";
  const struct {
    std::vector<std::string> settings;
    std::string says;
  } cases[] = {
      {{socket}, "FAULTLINE_PRELOAD_SOCKET is set and FAULTLINE_PRELOAD_MEMORY is not"},
      {{memory}, "FAULTLINE_PRELOAD_MEMORY is set and FAULTLINE_PRELOAD_SOCKET is not"},
      {{socket, "FAULTLINE_PRELOAD_MEMORY="}, "FAULTLINE_PRELOAD_MEMORY is empty"},
      {{socket, "FAULTLINE_PRELOAD_MEMORY=ram"}, "'ram' must be a file's full path"},
      {{socket, "FAULTLINE_PRELOAD_MEMORY=/ram@4k"}, "the offset '4k' of /ram is not a number of bytes"},
      {{socket, "FAULTLINE_PRELOAD_MEMORY=/ram@"}, "the offset '' of /ram is not a number of bytes"},
      {{socket, "FAULTLINE_PRELOAD_MEMORY=/ram@99999999999999999999"}, "is not a number of bytes"},
      {{socket, "FAULTLINE_PRELOAD_MEMORY=" + many}, "names more than 64 files"},
      {{"FAULTLINE_PRELOAD_SOCKET=", memory}, "'' is not a socket's path"},
      {{socket, memory, "FAULTLINE_PRELOAD_TIMEOUT_MS=-1"}, "'-1' is not a number from 0 to 3600000"},
      {{socket, memory, "FAULTLINE_PRELOAD_TIMEOUT_MS=3600001"}, "'3600001' is not a number"},
  };
  for (const auto& wrong : cases) {
    const Outcome outcome = run(wrong.settings, "map " + image_.path());
    EXPECT_EQ(outcome.status, 2) << wrong.says;
    EXPECT_THAT(outcome.lines, IsEmpty());
    EXPECT_THAT(outcome.errors, HasSubstr(wrong.says));
  }
}

}  // namespace
}  // namespace faultline::test
