// The JSON door with curl as its client: a restore from its listener to its end, each refusal, and what a client that is
// slow, silent, or large can do.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/http_door.h"
#include "process/build.h"
#include "process/process.h"
#include "rpc/connection.h"
#include "tests/cli/command.h"
#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr const char* CURL = "/usr/bin/curl";

struct Reply {
  int status = 0;
  json body;
};

class Http : public testing::Test {
 protected:
  void SetUp() override {
    if (access(CURL, X_OK) != 0) GTEST_SKIP() << "curl is missing (apt-get install curl)";
    start();
  }
  void start() {
    door_ = std::make_unique<Command>(
        std::vector<std::string>{"http", "--control", server_.control(), "--socket", at("http")});
    door_->await("serving HTTP");
  }
  std::string at(const std::string& name) const { return image_.directory() + "/" + name; }

  std::unique_ptr<Command> curl(const std::string& path, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{"--silent",   "--show-error", "--unix-socket", at("http"),
                                       "--max-time", "100",          "--write-out",   "%{http_code}"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    arguments.push_back("http://localhost" + path);
    return std::make_unique<Command>(arguments, CURL);
  }
  static Reply replyOf(Command& curl) {
    const auto result = curl.finish();
    EXPECT_EQ(result.code, 0) << result.err;
    const std::size_t code = result.out.size() < 3 ? 0 : result.out.size() - 3;
    const std::string text = result.out.substr(0, code);
    EXPECT_TRUE(json::accept(text)) << text;
    return {std::atoi(result.out.c_str() + code), json::parse(text, nullptr, false)};
  }
  Reply get(const std::string& path) const { return replyOf(*curl(path)); }
  Reply post(const std::string& path, const json& body = json::object()) const {
    return replyOf(*curl(path, {"--data", body.dump()}));
  }
  Reply send(const std::string& method, const std::string& path) const {
    return replyOf(*curl(path, {"--request", method}));
  }
  static void expectRefused(const Reply& reply, int status, const std::string& reason) {
    EXPECT_EQ(reply.status, status) << reply.body;
    EXPECT_EQ(reply.body.value("reason", ""), reason) << reply.body;
    const std::string text = reply.body.value("text", "");
    EXPECT_THAT(text, Not(IsEmpty()));
    for (const char* inside : {"expected ", "stringify", ".cpp", ".c++", "remote exception", "["})
      EXPECT_THAT(text, Not(HasSubstr(inside)));
  }
  json placed() const {
    return {{"spec", {{"name", "own"}, {"policy", {{"keepServing", true}}}}},
            {"socket", {{"path", at("own")}}},
            {"layers", {image_.path()}}};
  }

  Image image_{PAGES * SMALL};
  Server server_{image_};
  std::unique_ptr<Command> door_;
};

TEST_F(Http, ARestoreFromItsListenerToItsEnd) {
  EXPECT_EQ(post("/v1/listeners", placed()).status, 200);
  const json listener = get("/v1/listeners").body["listeners"][0];
  EXPECT_EQ(listener["name"], "own");
  EXPECT_EQ(listener["origin"], "call");
  EXPECT_EQ(listener["path"], at("own"));
  EXPECT_EQ(listener["layers"], json::array({image_.path()}));

  // Asked for before it is there.
  auto ready = curl("/v1/restores/own/ready?timeout_ms=90000");
  Target target(image_, at("own"), SMALL);
  EXPECT_EQ(replyOf(*ready).status, 200);
  ASSERT_TRUE(target.holdsImage(5));

  const json info = get("/v1/restores/own").body["info"];
  EXPECT_EQ(info["name"], "own");
  EXPECT_EQ(info["phase"], "serving");
  EXPECT_EQ(info["pages"], std::to_string(PAGES));
  EXPECT_EQ(info["missing"], std::to_string(PAGES - 1));
  EXPECT_EQ(get("/v1/restores").body["restores"].size(), 1u);
  EXPECT_EQ(get("/v1/status").body["service"]["restores"].size(), 1u);
  EXPECT_EQ(get("/v1/restores/own/stats").body["stats"]["faults"], "1");
  const json runs = get("/v1/restores/own/pages?first=4&count=3").body["runs"];
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[1]["state"], "faulted");
  EXPECT_EQ(runs[1]["pages"]["first"], "5");
  EXPECT_EQ(get("/v1/restores/own/owners").body["runs"][0]["pages"]["first"], "0");

  EXPECT_EQ(post("/v1/restores/own/pause").status, 200);
  expectRefused(post("/v1/restores/own/pause"), 409, "wrongPhase");
  EXPECT_EQ(post("/v1/restores/own/resume").status, 200);
  EXPECT_EQ(post("/v1/restores/own/reshard", {{"shards", 1}}).status, 200);
  expectRefused(post("/v1/restores/own/detach"), 409, "pagesMissing");
  const json range = {{"first", 512}, {"count", "10"}};  // both forms of a number
  EXPECT_EQ(post("/v1/restores/own/prefault", {{"ranges", {range}}}).status, 200);
  EXPECT_EQ(post("/v1/restores/own/prefault").status, 200);
  EXPECT_EQ(get("/v1/restores/own/complete?timeout_ms=90000").body["info"]["missing"], "0");

  auto end = curl("/v1/restores/own/end?timeout_ms=90000");
  EXPECT_EQ(post("/v1/restores/own/detach").status, 200);
  // What it was asked for before it was over; else there is no restore of that name any more.
  const Reply ended = replyOf(*end);
  EXPECT_TRUE(ended.body.value("reason", "") == "detached" || ended.status == 404 || ended.status == 410);
  await([&] { return get("/v1/restores").body["restores"].empty(); });
  const json over = get("/v1/ended/own").body["restores"];
  ASSERT_EQ(over.size(), 1u);
  EXPECT_EQ(over[0]["reason"], "detached");
  EXPECT_EQ(over[0]["info"]["missing"], "0");
  EXPECT_EQ(get("/v1/ended?name=other").body["restores"].size(), 0u);
  const json events = get("/v1/events?after=0").body["events"];
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events[0]["number"], "1");
  EXPECT_THAT(events[0]["text"].get<std::string>(), HasSubstr("served by 1 shards"));

  EXPECT_EQ(send("DELETE", "/v1/listeners/own").status, 200);
  expectRefused(send("DELETE", "/v1/listeners/own"), 404, "notFound");
  EXPECT_FALSE(std::filesystem::exists(at("own")));
}

TEST_F(Http, ARecordedWorkingSet) {
  json wanted = placed();
  wanted["spec"]["policy"]["recordWorkingSet"] = true;
  EXPECT_EQ(post("/v1/listeners", wanted).status, 200);
  Target target(image_, at("own"), SMALL);
  EXPECT_EQ(get("/v1/restores/own/ready").status, 200);
  for (const std::uint64_t page : {9, 3, 1000}) ASSERT_TRUE(target.holdsImage(page));
  const json set = get("/v1/restores/own/working-set").body;
  ASSERT_TRUE(set.is_object()) << set;
  EXPECT_EQ(set["pages"], json::array({"9", "3", "1000"}));
  EXPECT_EQ(get("/v1/restores/own/working-set?first=2").body["pages"], json::array({"1000"}));
  const json snapshot = get("/v1/restores/own/working-set/snapshot").body;
  EXPECT_EQ(snapshot["regions"].size(), 1u) << snapshot;
  // A file descriptor has no form in JSON.
  EXPECT_TRUE(snapshot.contains(json::json_pointer("/source/layers/0"))) << snapshot;
  EXPECT_EQ(snapshot.value(json::json_pointer("/source/layers/0/file"), json()), json()) << snapshot;
}

// A coordinator that dies is not noticed by a client that waits.
TEST_F(Http, AWaitOutlivesTheCoordinator) {
  Target target(image_, server_.socket(), SMALL);
  server_.restore();
  auto waiting = curl("/v1/restores/vm/complete?timeout_ms=90000");
  auto events = curl("/v1/events?after=0&timeout_ms=90000");
  kill(server_.coordinatorPid(), SIGKILL);
  EXPECT_EQ(replyOf(*events).body["events"].empty(), false);
  expectContent(target, {});
  EXPECT_EQ(replyOf(*waiting).body["info"]["missing"], "0");
}

TEST_F(Http, AnotherBuildTakesOver) {
  const json check = {{"directory", process::ownDirectory()}, {"checkOnly", true}};
  EXPECT_EQ(post("/v1/upgrade", check).body["version"], process::version());
  EXPECT_EQ(post("/v1/upgrade", {{"directory", process::ownDirectory()}}).status, 202);
  const Reply done = get("/v1/upgrade?timeout_ms=90000");
  EXPECT_EQ(done.body["version"], process::version()) << done.body;
  expectRefused(post("/v1/upgrade", {{"directory", at("none")}}), 400, "badInput");
}

TEST_F(Http, EachRefusalHasItsStatusAndReason) {
  Target target(image_, server_.socket(), SMALL);
  server_.restore();
  expectRefused(get("/v1/nothing"), 404, "noSuchPath");
  expectRefused(get("/"), 404, "noSuchPath");
  expectRefused(send("DELETE", "/v1/status"), 405, "noSuchMethod");
  expectRefused(get("/v1/restores/none"), 404, "notFound");
  expectRefused(get("/v1/restores/vm/working-set"), 404, "notFound");
  expectRefused(get("/v1/restores/vm/pages?first=5000"), 400, "badInput");
  expectRefused(get("/v1/restores/vm/pages?first=x"), 400, "badInput");
  expectRefused(get("/v1/restores/vm/pages?first=-1"), 400, "badInput");
  expectRefused(get("/v1/restores/vm/pages?last=5"), 400, "badInput");
  expectRefused(get("/v1/restores/vm/pages?first=%zz"), 400, "badInput");
  expectRefused(get("/v1/events?after=100000"), 400, "badInput");
  expectRefused(get("/v1/events?timeout_ms=soon"), 400, "badInput");
  expectRefused(post("/v1/restores/vm/resume"), 409, "wrongPhase");
  expectRefused(post("/v1/restores/vm/reshard", {{"shards", 65}}), 400, "badInput");
  expectRefused(post("/v1/restores/vm/reshard", {{"shards", "many"}}), 400, "badInput");
  expectRefused(post("/v1/restores/vm/reshard", {{"shards", -1}}), 400, "badInput");
  expectRefused(post("/v1/restores/vm/reshard", {{"shard", 1}}), 400, "badInput");
  expectRefused(post("/v1/restores/vm/reshard", json::array({1})), 400, "badInput");
  expectRefused(replyOf(*curl("/v1/restores/vm/reshard", {"--data", "{\"shards\": 1"})), 400, "badInput");
  expectRefused(replyOf(*curl("/v1/restores/vm/reshard", {"--data", std::string(200, '[')})), 400,
                "badInput");
  expectRefused(post("/v1/shutdown"), 409, "pagesMissing");
  json taken = placed();
  taken["spec"]["name"] = "vm";
  expectRefused(post("/v1/listeners", taken), 409, "nameTaken");
  json nowhere = placed();
  nowhere["layers"] = {at("none")};
  expectRefused(post("/v1/listeners", nowhere), 422, "badSource");
  expectRefused(get("/v1/restores/none/ready?timeout_ms=1"), 504, "timedOut");
  expectRefused(get("/v1/restores/vm/end?timeout_ms=1"), 504, "timedOut");
  const Reply none = get("/v1/events?after=" + std::to_string([&] {
                           std::uint64_t last = 0;
                           for (auto event : server_.status().getEvents()) last = event.getNumber();
                           return last;
                         }()) +
                         "&timeout_ms=1");
  EXPECT_EQ(none.status, 200);
  EXPECT_EQ(none.body["events"], json::array());
}

TEST_F(Http, ABodyThatIsTooLargeIsNotTaken) {
  const std::string file = at("body");
  {
    std::ofstream out(file);
    out << std::string(cli::HttpDoor::MAX_BODY + 1, ' ');
  }
  expectRefused(replyOf(*curl("/v1/restores/vm/prefault", {"--data-binary", "@" + file})), 413, "tooLarge");
  expectRefused(replyOf(*curl("/v1/restores/vm/prefault",
                              {"--data-binary", "@" + file, "--header", "Transfer-Encoding: chunked"})),
                413, "tooLarge");
  EXPECT_EQ(get("/v1/restores").status, 200);
}

TEST_F(Http, WithoutAServerItSaysSo) {
  door_ = std::make_unique<Command>(
      std::vector<std::string>{"http", "--control", at("no-control"), "--socket", at("http2")});
  door_->await("serving HTTP");
  Command curl({"--silent", "--unix-socket", at("http2"), "http://localhost/v1/status"}, CURL);
  const auto result = curl.finish();
  EXPECT_EQ(json::parse(result.out).value("reason", ""), "disconnected") << result.out;
}

// A client that sends half a request and one that sends none are hung up on; as many as there is room for hold up no other
// for longer than that.
TEST_F(Http, AClientThatIsSilentIsHungUpOn) {
  std::vector<kj::AutoCloseFd> silent;
  for (unsigned i = 0; i < cli::HttpDoor::MAX_CONNECTIONS; i++) {
    silent.push_back(rpc::connectTo(at("http")));
    const std::string half = i % 2 == 0 ? "" : "GET /v1/status HTTP/1.1\r\nHost: ";
    ASSERT_EQ(::send(silent.back().get(), half.data(), half.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(half.size()));
  }
  EXPECT_EQ(get("/v1/status").status, 200);
  for (const kj::AutoCloseFd& connection : silent) {
    std::string said;
    char piece[512];
    for (ssize_t got; (got = recv(connection.get(), piece, sizeof piece, 0)) > 0;)
      said.append(piece, static_cast<std::size_t>(got));
  }
}

// A client that goes away while it waits gives its place to others at once.
TEST_F(Http, AClientThatGoesAwayIsNotWaitedFor) {
  std::vector<std::unique_ptr<Command>> waiting;
  for (unsigned i = 0; i < cli::HttpDoor::MAX_CONNECTIONS; i++)
    waiting.push_back(curl("/v1/restores/none/ready?timeout_ms=600000", {"--verbose"}));
  for (auto& one : waiting) one->await("> GET /v1/restores/none/ready");
  waiting.clear();
  EXPECT_EQ(get("/v1/status").status, 200);
}

TEST_F(Http, WhatIsNoHttpIsToldSo) {
  const kj::AutoCloseFd connection = rpc::connectTo(at("http"));
  const std::string nonsense = "nonsense\r\n\r\n";
  ASSERT_EQ(::send(connection.get(), nonsense.data(), nonsense.size(), 0),
            static_cast<ssize_t>(nonsense.size()));
  std::string said;
  char piece[512];
  for (ssize_t got; (got = recv(connection.get(), piece, sizeof piece, 0)) > 0;)
    said.append(piece, static_cast<std::size_t>(got));
  EXPECT_THAT(said, HasSubstr("\"reason\":\"badRequest\""));
  EXPECT_EQ(get("/v1/status").status, 200);
}

TEST_F(Http, ItsSocketIsTheOwnersAloneAndGoesWithIt) {
  EXPECT_EQ(std::filesystem::status(at("http")).permissions(), std::filesystem::perms(0600));
  door_->signal(SIGTERM);
  EXPECT_EQ(door_->finish().code, 0);
  EXPECT_FALSE(std::filesystem::exists(at("http")));
}

TEST_F(Http, EndsTheService) {
  EXPECT_EQ(post("/v1/shutdown", {{"force", true}}).status, 200);
  await([&] { return !std::filesystem::exists(server_.control()); });
  expectRefused(get("/v1/status"), 503, "disconnected");
}

}  // namespace
}  // namespace faultline::test
