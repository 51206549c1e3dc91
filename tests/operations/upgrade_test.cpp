// Another build takes over while targets use their memory.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>

#include "process/build.h"
#include "process/process.h"
#include "tests/operations/load.h"
#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr unsigned THREADS = 4;
constexpr std::uint64_t LOAD_PAGES = 16 * EXTENT;
const std::string OWN = process::version(), NEXT = OWN + "+next";

std::string buildNamed(const std::string& name) {
  return std::filesystem::path(process::ownDirectory()).parent_path() / "builds" / name;
}

// Its exit code; what it says goes with the test's own output.
int upgradeByCommand(Server& server, const std::string& directory) {
  const std::string command = process::siblingExecutable("faultline") + " upgrade --control " +
                              server.control() + " --build " + directory + " </dev/null";
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Why an upgrade is refused.
std::string refusal(Server& server, const std::string& directory) {
  auto request = server.client().coordinator().upgradeRequest();
  request.setDirectory(directory.c_str());
  try {
    server.wait(request.send());
  } catch (const kj::Exception& error) {
    EXPECT_NE(error.getType(), kj::Exception::Type::DISCONNECTED);
    return error.getDescription().cStr();
  }
  return "";
}

void expectBuild(Server& server, const std::string& version) {
  auto status = server.status();
  EXPECT_EQ(std::string(status.getVersion().cStr()), version);
  EXPECT_EQ(status.getShards().size(), SHARDS);
  for (auto shard : status.getShards()) {
    EXPECT_TRUE(shard.getAlive()) << shard.getIndex();
    EXPECT_EQ(std::string(shard.getVersion().cStr()), version) << shard.getIndex();
    EXPECT_EQ(shard.getRestores(), status.getRestores().size()) << shard.getIndex();
  }
}

TEST(Upgrade, EveryByteIsRightAndEverythingIsOfTheNextBuild) {
  Image image(LOAD_PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target first(image, server.socket(), SMALL), second(image, server.socket(), SMALL, 3);
  server.restore(0);
  server.restore(1);
  expectBuild(server, OWN);
  Load a(first, THREADS), b(second, THREADS);
  a.awaitMore(20);
  b.awaitMore(20);

  ASSERT_EQ(upgradeByCommand(server, buildNamed("next")), 0);
  server.reconnect();
  expectBuild(server, NEXT);
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  a.awaitMore(20);
  b.awaitMore(20);

  // Back again: nothing of the first upgrade stands in the way.
  ASSERT_EQ(upgradeByCommand(server, process::ownDirectory()), 0);
  server.reconnect();
  expectBuild(server, OWN);
  EXPECT_EQ(server.status().getIncarnation(), 3u);
  a.awaitMore(20);
  b.awaitMore(20);
  a.finish();
  b.finish();
  for (auto shard : server.status().getShards())
    EXPECT_EQ(shard.getRestarts(), 0u) << "it was not replaced, it died";
}

// Pages that a replaced shard had not yet populated are its successor's to populate.
TEST(Upgrade, ABackgroundPopulationGoesOn) {
  Image image(LOAD_PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  // The population stands still until all processes have been replaced.
  server.wait(restore.pauseRequest().send());
  server.wait(restore.prefaultRequest().send());
  ASSERT_EQ(upgradeByCommand(server, buildNamed("next")), 0);
  server.reconnect();
  expectBuild(server, NEXT);
  auto again = server.client().restore("vm");
  server.wait(again.resumeRequest().send());
  server.wait(again.waitCompleteRequest().send());
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.inMemory(page)) << page;
  expectContent(target, {});
}

TEST(Upgrade, RefusesABuildThatCannotReadTheSegments) {
  Image image(LOAD_PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  Load load(target, THREADS);
  load.awaitMore(20);
  const pid_t coordinator = server.coordinatorPid();
  EXPECT_THAT(
      refusal(server, buildNamed("strange")),
      AllOf(HasSubstr("layout version is 4711 there and " + std::to_string(shm::LAYOUT_VERSION) + " here"),
            HasSubstr(OWN + "+strange")));
  EXPECT_NE(upgradeByCommand(server, buildNamed("strange")), 0);
  load.awaitMore(20);
  EXPECT_EQ(server.coordinatorPid(), coordinator);
  expectBuild(server, OWN);
  load.finish();
}

TEST(Upgrade, RefusesWhatIsNoBuild) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  const std::string half = image.directory() + "/half", other = image.directory() + "/other";
  EXPECT_THAT(refusal(server, half), HasSubstr("faultline-coordinator"));
  EXPECT_THAT(refusal(server, "bin"), HasSubstr("absolute path"));
  std::filesystem::create_directory(half);
  std::filesystem::copy(buildNamed("next") + "/faultline-coordinator", half);
  EXPECT_THAT(refusal(server, half), HasSubstr("faultline-shard"));
  std::filesystem::copy(buildNamed("strange") + "/faultline-shard", half);
  EXPECT_THAT(refusal(server, half), HasSubstr("of different builds"));
  std::filesystem::create_directory(other);
  for (const char* name : {"/faultline-coordinator", "/faultline-shard"})
    std::filesystem::copy("/bin/true", other + name);
  EXPECT_THAT(refusal(server, other), HasSubstr("does not say which build it is"));
  expectBuild(server, OWN);
}

// The next build's coordinator dies before it serves: the build before it is there again.
TEST(Upgrade, GoesBackFromABuildThatCannotTakeOver) {
  Image image(LOAD_PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  auto arming = coordinatorHooks(server).armRequest();
  arming.setPoint("adoptReplayed");
  arming.setAction(rpc::Action::KILL);
  arming.setPage(failpoints::ANY_PAGE);
  arming.setResume(rpc::makeFd(kj::AutoCloseFd(eventfd(0, EFD_CLOEXEC))));
  arming.setSuccessor(true);
  server.wait(arming.send());
  Load load(target, THREADS);
  load.awaitMore(20);

  EXPECT_NE(upgradeByCommand(server, buildNamed("next")), 0);
  server.reconnect();
  expectBuild(server, OWN);
  EXPECT_EQ(server.status().getIncarnation(), 3u);
  load.awaitMore(20);
  // The next try is a whole one.
  ASSERT_EQ(upgradeByCommand(server, buildNamed("next")), 0);
  server.reconnect();
  expectBuild(server, NEXT);
  load.awaitMore(20);
  load.finish();
}

// A program installed over a build that runs is not started: a coordinator and a shard that come for dead
// ones would be of another build than the rest.
TEST(Upgrade, AServiceStaysWithItsBuildWhateverItsDirectoryHolds) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const std::string installed = image.directory() + "/installed";
  std::filesystem::copy(buildNamed("next"), installed);
  ASSERT_EQ(upgradeByCommand(server, installed), 0);
  std::filesystem::remove_all(installed);
  std::filesystem::copy(buildNamed("strange"), installed);
  server.reconnect();
  const pid_t coordinator = server.coordinatorPid(), shard = server.shardPid(1);
  kill(shard, SIGKILL);
  kill(coordinator, SIGKILL);
  EXPECT_EQ(target.read(EXTENT), image.at(target.offset(EXTENT)));  // owned by the shard that was killed
  server.reconnect();
  server.restore();
  EXPECT_NE(server.coordinatorPid(), coordinator);
  EXPECT_NE(server.shardPid(1), shard);
  expectBuild(server, NEXT);
  expectContent(target, {});
}

}  // namespace
}  // namespace faultline::test
