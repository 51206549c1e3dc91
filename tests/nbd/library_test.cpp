// libnbd is not on every host: who has no such source needs none, and who has one is told what to install.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <fstream>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/nbd_server.h"
#include "tests/support/child_process.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

// Libraries of which the engines are made; TLS comes with some of them.
constexpr const char* ENGINES[] = {"libnbd", "librbd", "librados", "libcurl", "libgnutls"};

// Paths of files that the process has mapped.
std::string mapped(pid_t pid) {
  return textOf("/proc/" + std::to_string(pid) + "/maps");
}

// The path of a library that a process of ours has loaded. Empty: it is not installed.
std::string pathOfLibnbd() {
  for (const char* folder :
       {"/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib/", "/usr/lib64/"})
    if (const std::string path = std::string(folder) + "libnbd.so.0"; access(path.c_str(), R_OK) == 0)
      return path;
  return "";
}

// Has `empty` lie over the library, for this process and those that it starts. False: that is not possible here.
bool hide(const std::string& library, const std::string& empty) {
  return unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount(empty.c_str(), library.c_str(), nullptr, MS_BIND, nullptr) == 0;
}

TEST(EngineLibraries, AreInNoProcessThatServesFilesOfThisHost) {
  Image image(4 << 20);
  const PackedSource packed(image);
  Server server(image, serving(packed));
  Target target(image, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
  for (const pid_t pid :
       {server.supervisor(), server.coordinatorPid(), server.shardPid(0), figuresOf(server).pid})
    for (const char* library : ENGINES) EXPECT_EQ(mapped(pid).find(library), std::string::npos) << library;
}

TEST(EngineLibraries, AreInTheFetcherAloneThatNeedsThem) {
  if (const std::string why = NbdServer::whyNot(); !why.empty()) GTEST_SKIP() << why;
  Image image(4 << 20);
  const NbdServer source(NbdServer::ofFile(image.path()));
  Server server(image, serving(source));
  Target target(image, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
  EXPECT_THAT(mapped(figuresOf(server).pid), HasSubstr("libnbd"));
  for (const char* other : {"librbd", "libcurl"})
    EXPECT_EQ(mapped(figuresOf(server).pid).find(other), std::string::npos);
  for (const pid_t pid : {server.supervisor(), server.coordinatorPid(), server.shardPid(0)})
    for (const char* library : ENGINES) EXPECT_EQ(mapped(pid).find(library), std::string::npos) << library;
}

// An empty file lies over it, in a mount namespace of the service's own.
TEST(EngineLibraries, WithoutLibnbdOtherSourcesAreServedAndATargetOfAServerIsToldTheWayOut) {
  if (const std::string why = NbdServer::whyNot(); !why.empty()) GTEST_SKIP() << why;
  const std::string library = pathOfLibnbd();
  if (library.empty()) GTEST_SKIP() << "libnbd.so.0 is not where it is looked for";
  Image image(4 << 20), packedImage(4 << 20);
  const std::string empty = image.directory() + "/empty", log = image.directory() + "/log",
                    other = image.directory() + "/other";
  std::ofstream(empty).close();
  const NbdServer source(NbdServer::ofFile(image.path()));
  const PackedSource packed(packedImage);
  if (ChildProcess hides([&] { _exit(hide(library, empty) ? 0 : 1); }); hides.join() != 0)
    GTEST_SKIP() << "no mount namespace can be made";
  ServerOptions options = serving(
      source, {.more = {"--socket", other, "--memory", packed.path(), "--name", "other"}, .logFile = log});
  options.before = [&] { hide(library, empty); };
  Server server(image, options);
  Target refused(image, server.socket(), SMALL);
  awaitRefusal(log);
  EXPECT_THAT(textOf(log), HasSubstr("install libnbd (Debian: libnbd0)"));
  Target target(packedImage, other, SMALL);
  server.restoreNamed("other");
  expectContent(target, {});
}

}  // namespace
}  // namespace faultline::test
