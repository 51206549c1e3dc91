// The memory of a cache, as the kernel tells of it in each process of the service: what was fetched is nobody else's to read, has
// no name, and is written by the fetcher alone.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/fetcher/fetched_target.h"

namespace faultline::test {
namespace {

namespace fs = std::filesystem;

// A file that a process has open.
struct OpenFile {
  std::string through;  // its path in /proc
  struct stat status {};
  int access = 0;  // O_RDONLY, O_WRONLY or O_RDWR
};

// Those of which the kernel says that they are called like that.
std::vector<OpenFile> openIn(pid_t pid, const std::string& prefix) {
  const std::string process = "/proc/" + std::to_string(pid);
  std::vector<OpenFile> found;
  for (const auto& entry : fs::directory_iterator(process + "/fd")) {
    std::error_code closed;
    if (!fs::read_symlink(entry.path(), closed).string().starts_with(prefix)) continue;
    OpenFile file{entry.path()};
    if (stat(file.through.c_str(), &file.status) != 0) continue;
    std::ifstream info(process + "/fdinfo/" + entry.path().filename().string());
    for (std::string word; info >> word;)
      if (word == "flags:") info >> std::oct >> file.access;
    file.access &= O_ACCMODE;
    found.push_back(file);
  }
  return found;
}

class CacheFile : public testing::Test {
 protected:
  ServerOptions options() const { return serving(source_, {.more = {"--cache-dir", folder_.path()}}); }
  // Every process that has it, by whether that is to write.
  std::vector<std::pair<pid_t, bool>> holders(Server& server) const {
    return {{server.supervisor(), false},
            {server.coordinatorPid(), false},
            {server.shardPid(0), false},
            {server.shardPid(1), false},
            {figuresOf(server).pid, true}};
  }
  // Each of them has it, and as it is to be.
  void expectItsOwn(Server& server) const {
    for (const auto& [pid, writes] : holders(server)) {
      SCOPED_TRACE(textOf("/proc/" + std::to_string(pid) + "/comm"));
      const auto files = openIn(pid, folder_.path() + "/");
      EXPECT_FALSE(files.empty());
      for (const OpenFile& file : files) {
        EXPECT_TRUE(S_ISREG(file.status.st_mode));
        EXPECT_EQ(file.status.st_mode & 07777, 0600u);
        EXPECT_EQ(file.status.st_nlink, 0u);
        EXPECT_EQ(file.status.st_uid, geteuid());
        EXPECT_EQ(file.access, writes ? O_RDWR : O_RDONLY);
      }
    }
    EXPECT_EQ(folder_.content(), std::vector<std::string>());
  }

  Image image_{4 << 20};
  const PackedSource source_{image_};
  const Directory folder_;
};

// What it takes from others.
class CacheFileUnderUmask : public CacheFile, public testing::WithParamInterface<mode_t> {};
INSTANTIATE_TEST_SUITE_P(Of, CacheFileUnderUmask, testing::Values(0, 0022, 0077), [](const auto& info) {
  return info.param == 0 ? std::string("Nothing") : info.param == 0022 ? "Writing" : "All";
});

TEST_P(CacheFileUnderUmask, IsTheServicesAlone) {
  ServerOptions with = options();
  with.before = [] { umask(GetParam()); };
  Server server(image_, with);
  Target target(image_, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
  expectItsOwn(server);
}

// Handed on, and handed out anew.
TEST_F(CacheFile, IsStillAfterEveryDeath) {
  Server server(image_, options());
  Target target(image_, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  killAll(server);
  server.reconnect();
  server.restore();
  expectContent(target, {});
  for (const unsigned index : {0u, 1u}) await([&] { return server.shardPid(index) != 0; });
  expectItsOwn(server);
}

// By which its bytes would outlive the service.
TEST_F(CacheFile, CannotBeGivenAName) {
  Server server(image_, options());
  Target target(image_, server.socket(), SMALL);
  server.restore();
  for (const auto& [pid, writes] : holders(server))
    for (const OpenFile& file : openIn(pid, folder_.path() + "/")) {
      EXPECT_NE(
          linkat(AT_FDCWD, file.through.c_str(), AT_FDCWD, (folder_ / "name").c_str(), AT_SYMLINK_FOLLOW), 0);
      EXPECT_EQ(errno, ENOENT);
    }
  EXPECT_EQ(folder_.content(), std::vector<std::string>());
}

// Who could write there could have any shard believe in bytes that were never fetched.
TEST_F(CacheFile, ItsMapIsWrittenByTheFetcherAlone) {
  Server server(image_, options());
  Target target(image_, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  const std::string map = "/memfd:faultline-cache-map";
  for (const auto& [pid, writes] : holders(server)) {
    SCOPED_TRACE(textOf("/proc/" + std::to_string(pid) + "/comm"));
    for (const OpenFile& file : openIn(pid, map)) EXPECT_EQ(file.access, writes ? O_RDWR : O_RDONLY);
    std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
    unsigned mapped = 0;
    for (std::string line; std::getline(maps, line);) {
      if (line.find(map) == std::string::npos) continue;
      mapped++;
      EXPECT_EQ(line.find("-w") == std::string::npos && line.find("rw-s") != std::string::npos, writes)
          << line;
    }
    EXPECT_TRUE(mapped > 0 || (pid != server.shardPid(0) && !writes)) << "it is not mapped where it is used";
  }
}

}  // namespace
}  // namespace faultline::test
