// faultline status --json, of a restore that is being served.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "tests/cli/command.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using nlohmann::json;

constexpr std::uint64_t PAGES = 64;

json statusOf(Server& server) {
  const auto result = run({"status", "--json", "--control", server.control()});
  EXPECT_EQ(result.code, 0) << result.err;
  return json::parse(result.out);
}

TEST(Status, TellsOfThreadsThatWait) {
  Image image(PAGES * 4096);
  Server server(image);
  Target target(image, server.socket(), 4096);
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  auto read = target.readLater(7);
  await([&] { return statusOf(server)["restores"][0]["waiting_threads"] == 1; });
  server.wait(restore.resumeRequest().send());
  read.get();
  EXPECT_EQ(statusOf(server)["restores"][0]["waiting_threads"], 0);
}

TEST(Status, TellsOfTriesThatFoundNoMemory) {
  Image image(PAGES * 4096);
  Server server(image);
  const Target target(image, server.socket(), 4096);
  server.restore();
  const json status = statusOf(server);
  for (const json& shard : status["restores"][0]["stats"]["shards"]) EXPECT_EQ(shard.at("out_of_memory"), 0);
}

// A file's name is any bytes; JSON is not.
TEST(Status, IsJsonWhateverTheNameOfTheMemoryFile) {
  Image image(PAGES * 4096);
  const std::string file = image.directory() + "/odd\xff", socket = image.directory() + "/odd";
  ASSERT_EQ(link(image.path().c_str(), file.c_str()), 0);
  {
    Server server(image, {.more = {"--socket", socket, "--memory", file, "--name", "odd"}});
    const Target target(image, socket, 4096);
    ASSERT_TRUE(target.holdsImage(0));
    EXPECT_EQ(statusOf(server)["restores"][0]["source"], image.directory() + "/odd\xef\xbf\xbd");
  }
  unlink(file.c_str());
}

}  // namespace
}  // namespace faultline::test
