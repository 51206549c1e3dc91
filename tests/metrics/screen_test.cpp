// The screen of `faultline status --watch`.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/status_screen.h"

namespace faultline::test {
namespace {

using cli::chosenOf;
using cli::screenOf;
using cli::stallsOf;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

json restore(const std::string& name, std::uint64_t waiting = 0, std::uint64_t answered = 0) {
  return {{"name", name},
          {"phase", "serving"},
          {"source", "/a/long/path/to/the/memory/file/of/" + name + ".mem"},
          {"pages", 1000},
          {"missing", 250},
          {"waiting_threads", waiting},
          {"faults_per_second", 10.0},
          {"bytes_per_second", 4096.0},
          {"fault_p50_ns", 1000},
          {"fault_p99_ns", 2000},
          {"stats",
           {{"shards",
             {{{"shard", 0},
               {"extents", 1},
               {"source_errors", 0},
               {"out_of_memory", 0},
               {"event_to_done", {{"samples", answered}}}}}}}}};
}

json look(const std::vector<json>& restores, bool shardUp = true) {
  return {{"version", "1.0"},
          {"coordinator_pid", 7},
          {"incarnation", 2},
          {"shards", {{{"index", 0}, {"alive", shardUp}}}},
          {"restores", restores}};
}

std::vector<std::string> linesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(Screen, FitsItsWidthAndItsHeight) {
  std::vector<json> many;
  for (int i = 0; i < 100; i++) many.push_back(restore("vm" + std::to_string(i)));
  for (const unsigned width : {80u, 100u, 132u})
    for (const unsigned height : {5u, 23u, 60u}) {
      const auto lines = linesOf(screenOf(json(), look(many), {}, width, height));
      EXPECT_EQ(lines.size(), height);
      for (const std::string& line : lines) EXPECT_LE(line.size(), width) << line;
      EXPECT_THAT(lines.back(), HasSubstr("more"));
    }
  EXPECT_THAT(screenOf(json(), look({restore("vm1")}), {}, 200, 20),
              AllOf(HasSubstr("75.0"), HasSubstr("vm1.mem")));
  EXPECT_THAT(screenOf(json(), look({}), {}, 80, 20), HasSubstr("no restores"));
}

TEST(Screen, ChoosesByNameAndSorts) {
  json a = restore("a1"), b = restore("b1"), c = restore("a2");
  a["missing"] = 5;
  c["missing"] = 9;
  const auto names = [](const json& restores) {
    std::vector<std::string> result;
    for (const json& each : restores) result.push_back(each["name"]);
    return result;
  };
  EXPECT_THAT(names(chosenOf(look({c, b, a}), {})), ElementsAre("a1", "a2", "b1"));
  EXPECT_THAT(names(chosenOf(look({c, b, a}), {"a", "name"})), ElementsAre("a1", "a2"));
  EXPECT_THAT(names(chosenOf(look({a, b, c}), {"", "missing"})), ElementsAre("b1", "a2", "a1"));
  a["waiting_threads"] = 3;
  EXPECT_THAT(names(chosenOf(look({a, b, c}), {"", "waiting"})), ElementsAre("a1", "a2", "b1"));
  // A restore whose figures could not be had.
  a.erase("fault_p99_ns");
  EXPECT_THAT(names(chosenOf(look({a, b}), {"", "p99"})), ElementsAre("b1", "a1"));
}

TEST(Screen, BeginsWithStallsByCause) {
  const json before = look({restore("slow", 2, 7), restore("busy", 4, 7), restore("new", 0, 0),
                            restore("paused", 1, 0), restore("failing", 1, 0)});
  json paused = restore("paused", 1, 0), failing = restore("failing", 3, 0);
  paused["phase"] = "paused";
  failing["stats"]["shards"][0]["source_errors"] = 2;
  const json now =
      look({restore("slow", 2, 7), restore("busy", 4, 8), restore("new", 1, 0), paused, failing});
  EXPECT_THAT(stallsOf(before, now),
              ElementsAre("STALLED, reads of the source fail: 3 threads of failing",
                          "STALLED, the source or a shard does not answer: 2 threads of slow",
                          "STALLED, paused: 1 threads of paused"));
  EXPECT_THAT(linesOf(screenOf(before, now, {}, 100, 20))[1], HasSubstr("STALLED, reads of the source fail"));
  EXPECT_THAT(stallsOf(before, look({restore("slow", 2, 7)}, false)),
              ElementsAre("STALLED, a shard is down: 2 threads of slow"));
  EXPECT_THAT(stallsOf(json(), now), IsEmpty()) << "one look tells of no stall";
}

}  // namespace
}  // namespace faultline::test
