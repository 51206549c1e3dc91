// What is told of a server's source: `faultline status`, the metrics and the events say what has happened, all of them the same.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/nbd/nbd_target.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class NbdFigures : public NbdTarget {
 protected:
  std::string said(std::vector<std::string> command) const {
    command.insert(command.end(), {"--control", server_->control()});
    const auto result = run(command);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  }
  static json engineOf(const json& fetcher) {
    for (const json& engine : fetcher["engines"])
      if (engine["name"] == "nbd") return engine;
    ADD_FAILURE() << "there is none: " << fetcher;
    return json::object();
  }
  // A restore that has lost a chunk with its server, which has come back since, and another of the same source.
  void lose() {
    begin("300ms");
    source_->kill();
    EXPECT_EQ(target_->touch(LOST * CHUNK_PAGES), Touch::sigbus);
    source_->start();
    expectContentBut(*target_, LOST);
    other_ = std::make_unique<Target>(image_, server_->socket(), SMALL);
    server_->restore(1);
    expectContent(*other_, {});
    // A fault is answered a moment before its chunk is kept.
    await([&] { return figuresOf(*server_).cachedBytes == image_.bytes(); });
  }
  void TearDown() override {
    other_ = nullptr;
    NbdTarget::TearDown();
  }

  static constexpr std::uint64_t CHUNK = CHUNK_PAGES * SMALL, LOST = 50;
  std::unique_ptr<Target> other_;
};

TEST_F(NbdFigures, OfTheStatusAreWhatHasHappened) {
  lose();
  const json fetcher = json::parse(said({"status", "--json"}))["fetcher"];
  EXPECT_EQ(fetcher["pid"], figuresOf(*server_).pid);
  EXPECT_EQ(fetcher["restarts"], 0);
  EXPECT_EQ(fetcher["cached_bytes"], image_.bytes());
  EXPECT_EQ(fetcher["not_kept"], 0);
  EXPECT_GE(fetcher["misses"], image_.bytes() / CHUNK + 1) << "each chunk, and that which failed";
  EXPECT_EQ(fetcher["saved_bytes"], image_.bytes() - CHUNK)
      << "of two restores, of which one has lost a chunk";
  const json engine = engineOf(fetcher);
  EXPECT_EQ(engine["bytes"], image_.bytes());
  EXPECT_GE(engine["errors"], 1);
  EXPECT_GE(engine["given_up"], 1);
  EXPECT_GE(engine["reconnects"], 1);
  EXPECT_EQ(engine["requests"], image_.bytes() / CHUNK + engine["errors"].get<std::uint64_t>());
  EXPECT_EQ(engine["latency"]["samples"], engine["requests"]);
  EXPECT_GT(engine["latency"]["p50_ns"], 0);
  EXPECT_GE(engine["latency"]["p999_ns"], 250'000'000) << "that which ran out of patience";
}

TEST_F(NbdFigures, OfTheMetricsAreThoseOfTheStatus) {
  lose();
  const json fetcher = json::parse(said({"status", "--json"}))["fetcher"];
  const std::string text = said({"metrics", "--once"});
  const std::pair<const char*, const char*> plain[] = {{"faultline_fetcher_restarts_total", "restarts"},
                                                       {"faultline_fetch_hits_total", "hits"},
                                                       {"faultline_fetch_misses_total", "misses"},
                                                       {"faultline_fetch_not_kept_total", "not_kept"},
                                                       {"faultline_cache_bytes", "cached_bytes"},
                                                       {"faultline_cache_saved_bytes", "saved_bytes"},
                                                       {"faultline_cache_limit_bytes", "cache_limit_bytes"},
                                                       {"faultline_cache_evictions_total", "evicted"}};
  const auto expectLine = [&](const std::string& line) {
    EXPECT_NE(text.find("\n" + line + "\n"), std::string::npos) << line;
  };
  for (const auto& [metric, field] : plain) expectLine(std::string(metric) + " " + fetcher[field].dump());
  expectLine("faultline_fetcher_up 1");
  const json engine = engineOf(fetcher);
  for (const std::string field : {"requests", "bytes", "errors", "reconnects", "given_up"})
    expectLine("faultline_fetch_" + field + "_total{engine=\"nbd\"} " + engine[field].dump());
  expectLine("faultline_fetch_seconds_count{engine=\"nbd\"} " + engine["requests"].dump());
}

TEST_F(NbdFigures, EventsTellOfTheLossAndOfThePageThatItCost) {
  lose();
  const std::string events = said({"events"});
  EXPECT_THAT(events, HasSubstr(source_->uri() + ": the connection is lost: "));
  EXPECT_THAT(events, HasSubstr("is poisoned"));
  EXPECT_THAT(events, HasSubstr("--source-patience"));
  EXPECT_THAT(events, HasSubstr(source_->uri() + ": the server is connected to again after "));
}

}  // namespace
}  // namespace faultline::test
