// Which content a file has: told without reading it.

#include "process/file_identity.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace faultline::process {
namespace {

class Identity : public testing::Test {
 protected:
  Identity() {
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
    file_ = kj::AutoCloseFd(open(path().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(pwrite(file_, "bytes", 5, 0), 5);
    was_ = identityOf(file_);
  }
  ~Identity() noexcept override { std::filesystem::remove_all(directory_); }

  std::string path() const { return directory_ + "/file"; }
  std::string changed() const { return whatChanged(was_, identityOf(file_)).value_or("nothing"); }
  // Waits until the clock of file times has gone on.
  template <typename Change>
  std::string changedBy(Change change) {
    do change();
    while (changed() == "nothing");
    return changed();
  }

  std::string directory_ = "/tmp/faultline-test-XXXXXX";
  kj::AutoCloseFd file_;
  FileIdentity was_;
};

TEST_F(Identity, IsTheSameForTheSameFile) {
  EXPECT_EQ(changed(), "nothing");
  const kj::AutoCloseFd again(open(path().c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(whatChanged(was_, identityOf(again)), std::nullopt);
  char byte;
  EXPECT_EQ(pread(again, &byte, 1, 0), 1);
  EXPECT_EQ(changed(), "nothing") << "it was read";
}

TEST_F(Identity, SaysWhatHasChanged) {
  EXPECT_EQ(changedBy([&] { EXPECT_EQ(pwrite(file_, "B", 1, 0), 1); }), "has been written to");
  EXPECT_EQ(ftruncate(file_, 3), 0);
  EXPECT_EQ(changed(), "has another size");
  const kj::AutoCloseFd other(open((directory_ + "/other").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  EXPECT_STREQ(whatChanged(was_, identityOf(other)).value_or(""), "is another file");
}

// Who puts the time of the last write back has written all the same.
TEST_F(Identity, IsNotMisledByATimeThatWasPutBack) {
  const std::int64_t before = was_.modified;
  const timespec times[] = {{0, UTIME_OMIT},
                            {before / 1'000'000'000, static_cast<long>(before % 1'000'000'000)}};
  EXPECT_EQ(changedBy([&] {
              EXPECT_EQ(pwrite(file_, "B", 1, 0), 1);
              EXPECT_EQ(futimens(file_, times), 0);
            }),
            "has been changed");
}

TEST_F(Identity, DoesNotDependOnItsNames) {
  ASSERT_EQ(link(path().c_str(), (directory_ + "/second").c_str()), 0);
  EXPECT_EQ(changed(), "nothing");
  ASSERT_EQ(unlink((directory_ + "/second").c_str()), 0);
  ASSERT_EQ(unlink(path().c_str()), 0);
  EXPECT_EQ(changed(), "nothing");
}

}  // namespace
}  // namespace faultline::process
