// `faultline metrics` against a running service, over HTTP: its text, the clients that it refuses, the deaths
// that it outlives.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/errors.h"
#include "cli/metrics_server.h"
#include "tests/cli/command.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::uint64_t PAGES = 64;

// A connection of a scraper.
class Http {
 public:
  explicit Http(std::uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }
  explicit Http(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    path.copy(to.sun_path, sizeof to.sun_path - 1);
    EXPECT_EQ(connect(fd_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }

  void send(const std::string& bytes) const { ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  // All until the other end closes.
  std::string readAll() const {
    std::string text;
    char part[4096];
    for (ssize_t got; (got = recv(fd_.get(), part, sizeof part, 0)) > 0;) text.append(part, got);
    return text;
  }
  // Asks, and returns one answer; the connection stays open.
  std::string ask(const std::string& method, const std::string& path,
                  const std::string& host = "localhost") const {
    send(method + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
    std::string text;
    char part[4096];
    while (!whole(text)) {
      const ssize_t got = recv(fd_.get(), part, sizeof part, 0);
      if (got <= 0) return text;
      text.append(part, static_cast<std::size_t>(got));
    }
    return text;
  }

 private:
  static bool whole(const std::string& text) {
    const std::size_t head = text.find("\r\n\r\n"), length = text.find("Content-Length: ");
    return head != std::string::npos && length < head &&
           text.size() >= head + 4 + std::stoul(text.substr(length + 16));
  }

  kj::AutoCloseFd fd_;
};

class Scrape : public ::testing::Test {
 protected:
  void SetUp() override {
    exporter_ = std::make_unique<Command>(
        std::vector<std::string>{"metrics", "--control", server_.control(), "--listen", "127.0.0.1:0"});
    exporter_->await("/metrics");
    port_ = portOf(exporter_->soFar());
  }

  static std::uint16_t portOf(const std::string& said) {
    return static_cast<std::uint16_t>(std::stoul(said.substr(said.find("127.0.0.1:") + 10)));
  }
  Http connect() const { return Http(port_); }
  std::string scrape() const { return connect().ask("GET", "/metrics"); }
  // The value of the sample that begins so; -1 where there is none.
  static double valueOf(const std::string& text, const std::string& sample) {
    const std::size_t at = text.find("\n" + sample + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + sample.size() + 2));
  }

  Image image_{PAGES * 4096};
  Server server_{image_};
  std::unique_ptr<Command> exporter_;
  std::uint16_t port_ = 0;
};

TEST_F(Scrape, FollowsTheRestore) {
  const Target target(image_, server_.socket(), 4096);
  server_.restore();
  for (std::uint64_t page = 0; page < 10; page++) ASSERT_TRUE(target.holdsImage(page));
  target.giveBack(20, 5);
  const std::string text = scrape();
  EXPECT_THAT(text, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(text, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_EQ(valueOf(text, "faultline_up"), 1);
  EXPECT_EQ(valueOf(text, "faultline_restore_pages{restore=\"vm\",state=\"removed\"}"), 5);
  EXPECT_EQ(valueOf(text, "faultline_remove_events_total{restore=\"vm\"}"), 1);
  EXPECT_EQ(valueOf(text, "faultline_fault_events_total{restore=\"vm\"}"), 10);
  // The last page's thread goes on a moment before its worker has counted it.
  await([&] { return valueOf(scrape(), "faultline_restore_pages{restore=\"vm\",state=\"faulted\"}") == 10; });
}

TEST_F(Scrape, CountsOnAfterTheDeathOfTheCoordinatorAndOfAShard) {
  const Target target(image_, server_.socket(), 4096);
  server_.restore();
  for (std::uint64_t page = 0; page < 10; page++) ASSERT_TRUE(target.holdsImage(page));
  const std::string faults = "faultline_fault_events_total{restore=\"vm\"}";
  ASSERT_EQ(valueOf(scrape(), faults), 10);
  const pid_t coordinator = server_.coordinatorPid(), shard = server_.shardPid(0);
  kill(coordinator, SIGKILL);
  kill(shard, SIGKILL);
  server_.reconnect();
  for (std::uint64_t page = 10; page < 20; page++) ASSERT_TRUE(target.holdsImage(page));
  const std::string text = scrape();
  EXPECT_GE(valueOf(text, faults), 20);
  EXPECT_EQ(valueOf(text, "faultline_coordinator_takeovers_total"), 1);
  EXPECT_GT(valueOf(text, "faultline_coordinator_takeover_seconds"), 0);
}

TEST_F(Scrape, TellsHowLongAShardsRecoveryTook) {
  kill(server_.shardPid(0), SIGKILL);
  await([&] { return valueOf(scrape(), "faultline_shard_recovery_seconds{shard=\"0\"}") > 0; });
  EXPECT_EQ(valueOf(scrape(), "faultline_shard_restarts_total{shard=\"0\"}"), 1);
}

TEST_F(Scrape, CountersOfTheServiceGoOnFromOneCoordinatorToTheNext) {
  const Target target(image_, server_.socket(), 4096);
  server_.restore();
  const std::string restarts = "faultline_shard_restarts_total{shard=\"0\"}";
  const std::string recoveries = "faultline_recovery_seconds_count{process=\"shard\"}";
  kill(server_.shardPid(0), SIGKILL);
  await([&] { return valueOf(scrape(), recoveries) == 1; });
  for (unsigned deaths = 1; deaths <= 2; deaths++) {
    kill(server_.coordinatorPid(), SIGKILL);
    server_.reconnect();
    const std::string text = scrape();
    EXPECT_EQ(valueOf(text, restarts), 1);
    EXPECT_EQ(valueOf(text, recoveries), 1);
    EXPECT_EQ(valueOf(text, "faultline_restores_begun_total"), 1);
    EXPECT_EQ(valueOf(text, "faultline_coordinator_takeovers_total"), deaths);
    EXPECT_EQ(valueOf(text, "faultline_recovery_seconds_count{process=\"coordinator\"}"), deaths);
  }
}

TEST_F(Scrape, TellsOfALostPage) {
  const Target target(image_, server_.socket(), 4096);
  server_.restore();
  image_.truncate((PAGES - 1) * 4096);
  EXPECT_EQ(target.touch(PAGES - 1), Touch::sigbus);
  // The target knows before the coordinator does.
  await([&] { return valueOf(scrape(), "faultline_pages_lost_total") == 1; });
}

TEST_F(Scrape, TellsHowFarAPopulationIs) {
  const Target target(image_, server_.socket(), 4096);
  auto restore = server_.restore();
  const std::string populating = "faultline_restore_prefaulting{restore=\"vm\"}";
  const std::string held = "faultline_restore_population_held{restore=\"vm\"}";
  const std::string missing = "faultline_restore_pages{restore=\"vm\",state=\"missing\"}";
  EXPECT_EQ(valueOf(scrape(), populating), 0);
  server_.wait(restore.pauseRequest().send());
  auto prefault = server_.wait(restore.prefaultRequest().send()).getPrefault();
  std::string text = scrape();
  EXPECT_EQ(valueOf(text, populating), 1);
  EXPECT_EQ(valueOf(text, held), 1);
  EXPECT_EQ(valueOf(text, missing), PAGES);
  server_.wait(restore.resumeRequest().send());
  server_.wait(prefault.waitRequest().send());
  text = scrape();
  EXPECT_EQ(valueOf(text, populating), 0);
  EXPECT_EQ(valueOf(text, held), 0);
  EXPECT_EQ(valueOf(text, missing), 0);
}

TEST_F(Scrape, TellsOfThreadsThatWait) {
  Target target(image_, server_.socket(), 4096);
  auto restore = server_.restore();
  server_.wait(restore.pauseRequest().send());
  auto read = target.readLater(7);
  const std::string waiting = "faultline_restore_waiting_threads{restore=\"vm\"}";
  await([&] { return valueOf(scrape(), waiting) == 1; });
  server_.wait(restore.resumeRequest().send());
  read.get();
  EXPECT_EQ(valueOf(scrape(), waiting), 0);
}

TEST_F(Scrape, SaysSoWhereTheServiceHasGone) {
  ASSERT_EQ(run({"shutdown", "--control", server_.control(), "--force"}).code, 0);
  await([&] { return valueOf(scrape(), "faultline_up") == 0; });
  EXPECT_EQ(run({"metrics", "--once", "--control", server_.control()}).code, cli::DISCONNECTED);
}

TEST_F(Scrape, RefusesWhatIsNoScrape) {
  EXPECT_THAT(connect().ask("GET", "/other"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(connect().ask("POST", "/"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(connect().ask("DELETE", "/metrics"), StartsWith("HTTP/1.1 405"));
  const Http nonsense = connect();
  nonsense.send("\x16\x03\x01 nonsense\r\n\r\n");
  EXPECT_THAT(nonsense.readAll(), StartsWith("HTTP/1.1 501"));
  const Http endless = connect();
  for (unsigned i = 0; i < 64; i++) endless.send("GET /metrics HTTP/1.1\r\nX: " + std::string(65536, 'x'));
  EXPECT_THAT(endless.readAll(), ::testing::Not(HasSubstr("200 OK")));
  EXPECT_EQ(valueOf(scrape(), "faultline_up"), 1);
}

TEST_F(Scrape, ShowsAPageOfWhichNothingComesFromElsewhere) {
  const std::string page = connect().ask("GET", "/");
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(page, HasSubstr("Content-Security-Policy: default-src 'none'"));
  EXPECT_THAT(page, HasSubstr("<title>faultline</title>"));
  for (const char* elsewhere : {"http://", "https://", "src=", "@import", "url("})
    EXPECT_THAT(page, ::testing::Not(HasSubstr(elsewhere)));
}

TEST_F(Scrape, TellsThePageWhatIsServedAndTheStatesOfAMapsCells) {
  const Target target(image_, server_.socket(), 4096);
  server_.restore();
  for (std::uint64_t page = 0; page < 10; page++) ASSERT_TRUE(target.holdsImage(page));
  target.giveBack(20, 5);
  const auto body = [](const std::string& answer) {
    return nlohmann::json::parse(answer.substr(answer.find("\r\n\r\n") + 4), nullptr, false);
  };
  const auto watch = body(connect().ask("GET", "/watch.json"));
  EXPECT_EQ(watch["up"], true);
  EXPECT_EQ(watch["restores"][0]["name"], "vm");
  EXPECT_EQ(watch["restores"][0]["removed"], 5);
  EXPECT_EQ(watch["stalls"].size(), 0u);
  std::string cells;
  await([&] {
    const auto map = body(connect().ask("GET", "/map.json?restore=vm"));
    EXPECT_EQ(map["pages"], PAGES);
    EXPECT_EQ(map["cell_pages"], 1);
    EXPECT_EQ(map["side"], 8);
    cells = map["cells"];
    return cells.substr(27, 3) == "900";
  });
  EXPECT_EQ(cells.size(), PAGES * 3);
  for (std::uint64_t page = 0; page < PAGES; page++)
    EXPECT_EQ(cells.substr(page * 3, 3), page < 10 ? "900" : page >= 20 && page < 25 ? "090" : "000") << page;
  EXPECT_THAT(connect().ask("GET", "/map.json?restore=other"), StartsWith("HTTP/1.1 404"));
  for (const char* wrong :
       {"/map.json", "/map.json?restore=", "/map.json?restore=a%2", "/map.json?restore=a/b"})
    EXPECT_THAT(connect().ask("GET", wrong), StartsWith("HTTP/1.1 400")) << wrong;
}

// A page of another host may have its name lead here, and read what we answer.
TEST_F(Scrape, AnswersOnlyWhoAsksThisMachineByAName) {
  for (const char* path : {"/", "/metrics", "/watch.json", "/map.json?restore=vm"}) {
    for (const char* host :
         {"evil.example", "evil.example:9464", "127.0.0.1.evil.example", "1.2.3.4", "[::2]:80", ""})
      EXPECT_THAT(connect().ask("GET", path, host), StartsWith("HTTP/1.1 403")) << path << " " << host;
    for (const char* host :
         {"localhost", "localhost:9464", "127.0.0.1:9464", "127.3.2.1", "[::1]:9464", "[::1]"})
      EXPECT_THAT(connect().ask("GET", path, host), ::testing::Not(StartsWith("HTTP/1.1 403")))
          << path << " " << host;
  }
}

// All places are taken by connections that say nothing. Further ones are turned away, and these in the end,
// so that there is room again.
TEST_F(Scrape, IsNotHeldUpForLongByThoseThatSayNothing) {
  std::vector<Http> silent;
  for (unsigned i = 0; i < 40; i++) silent.push_back(connect());
  await([&] { return valueOf(scrape(), "faultline_up") == 1; });
}

// All places are taken by connections that ask again and again and never take an answer.
TEST_F(Scrape, IsNotHeldUpForLongByThoseThatDoNotRead) {
  const Directory directory;
  const std::string path = directory / "metrics";
  Command local({"metrics", "--control", server_.control(), "--listen", "unix:" + path});
  local.await("metrics at unix:");
  std::string requests;  // whose answers no buffer holds
  for (unsigned i = 0; i < 200; i++) requests += "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
  std::vector<Http> idle;
  for (unsigned i = 0; i < cli::MetricsServer::MAX_CONNECTIONS; i++) {
    idle.emplace_back(path);
    idle.back().send(requests);
  }
  await([&] { return valueOf(Http(path).ask("GET", "/metrics"), "faultline_up") == 1; });
}

TEST_F(Scrape, SpeaksOverAUnixSocketThatIsTheOwnersAlone) {
  const Directory directory;
  const std::string path = directory / "metrics";
  Command local({"metrics", "--control", server_.control(), "--listen", "unix:" + path});
  local.await("metrics at unix:");
  struct stat status {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_THAT(Http(path).ask("GET", "/metrics"), HasSubstr("\nfaultline_up 1\n"));
  local.signal(SIGTERM);
  EXPECT_EQ(local.finish().code, 0);
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

// Eight restores, each on two of four shards.
TEST(MetricsCommand, WhatARestoreCostsDoesNotGrowWithTheShards) {
  Image image(1024 * 4096);  // two extents
  Server server(image, {.shards = 4, .owners = 2});
  std::vector<std::unique_ptr<Target>> targets;
  for (unsigned i = 0; i < 8; i++) {
    targets.push_back(std::make_unique<Target>(image, server.socket(), 4096));
    server.restore(i);
    for (const std::uint64_t page : {0u, 512u}) ASSERT_TRUE(targets.back()->holdsImage(page));
  }
  auto samplesOf = [](const std::string& text, const std::string& what) {
    unsigned count = 0;
    for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at++) count++;
    return count;
  };
  const auto brief = run({"metrics", "--once", "--control", server.control()});
  ASSERT_EQ(brief.code, 0) << brief.err;
  for (unsigned i = 0; i < 8; i++)
    EXPECT_LE(samplesOf(brief.out, "{restore=\"" + Server::restoreName(i) + "\""), 90u) << i;
  EXPECT_EQ(samplesOf(brief.out, "\",shard=\""), 0u);
  const auto each = run({"metrics", "--once", "--per-shard", "--control", server.control()});
  ASSERT_EQ(each.code, 0) << each.err;
  for (unsigned i = 0; i < 8; i++)
    for (unsigned shard = 0; shard < 4; shard++) {
      const bool owns = shard == server.ownerOf(0, i) || shard == server.ownerOf(512, i);
      const std::string sample = "faultline_shard_extents{restore=\"" + Server::restoreName(i) +
                                 "\",shard=\"" + std::to_string(shard) + "\"}";
      EXPECT_EQ(samplesOf(each.out, sample), owns ? 1u : 0u) << sample;
    }
}

TEST(MetricsCommand, ListensToThisMachineAlone) {
  for (const char* where : {"0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "example.org:9464", "9464",
                            "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:1x", "unix:"}) {
    const auto result = run({"metrics", "--listen", where});
    EXPECT_EQ(result.code, cli::USAGE) << where;
    EXPECT_THAT(result.err, HasSubstr(where)) << where;
  }
}

}  // namespace
}  // namespace faultline::test
