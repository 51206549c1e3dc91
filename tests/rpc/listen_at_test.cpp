// A listening socket's file: whose it is, and when.

#include <gtest/gtest.h>
#include <kj/exception.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "rpc/connection.h"

namespace faultline::rpc {
namespace {

struct ListenAt : testing::Test {
  std::string directory;
  ListenAt() {
    char name[] = "/tmp/faultline-listen-XXXXXX";
    directory = mkdtemp(name);
  }
  ~ListenAt() override { std::filesystem::remove_all(directory); }
  std::string path() const { return directory + "/socket"; }
  struct stat status() const {
    struct stat status {};
    EXPECT_EQ(lstat(path().c_str(), &status), 0);
    return status;
  }
};

TEST_F(ListenAt, IsForItsOwnerAloneWhateverTheUmask) {
  const mode_t before = umask(0);
  const kj::AutoCloseFd socket = listenAt(path());
  umask(before);
  EXPECT_EQ(status().st_mode & 07777, 0600u);
  EXPECT_EQ(status().st_uid, geteuid());
}

TEST_F(ListenAt, HasTheModeThatIsGiven) {
  const mode_t before = umask(077);
  const kj::AutoCloseFd socket = listenAt(path(), {.owner = "", .group = "", .mode = 0666});
  umask(before);
  EXPECT_EQ(status().st_mode & 07777, 0666u);
}

TEST_F(ListenAt, BelongsToTheUserAndGroupThatAreGiven) {
  if (geteuid() != 0) GTEST_SKIP() << "root is needed to give a file away";
  const kj::AutoCloseFd socket = listenAt(path(), {.owner = "nobody", .group = "4711", .mode = 0660});
  EXPECT_EQ(status().st_uid, 65534u);
  EXPECT_EQ(status().st_gid, 4711u);
  EXPECT_EQ(status().st_mode & 07777, 0660u);
}

TEST_F(ListenAt, LeavesNoFileWhereItsOwnerIsNobody) {
  EXPECT_THROW(listenAt(path(), {.owner = "no-such-user", .group = "", .mode = 0600}), kj::Exception);
  EXPECT_FALSE(std::filesystem::exists(path()));
  EXPECT_THROW(listenAt(path(), {.owner = "", .group = "no-such-group", .mode = 0600}), kj::Exception);
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(ListenAt, ReplacesASocketThatNoProcessServesAndNoOther) {
  { const kj::AutoCloseFd former = listenAt(path()); }
  const kj::AutoCloseFd socket = listenAt(path());
  EXPECT_THROW(listenAt(path()), kj::Exception);
  EXPECT_TRUE(std::filesystem::exists(path()));
}

}  // namespace
}  // namespace faultline::rpc
