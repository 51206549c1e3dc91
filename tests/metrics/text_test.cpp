// The text that Prometheus reads: its form, and what of the service's answers is where.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <set>
#include <sstream>

#include "tests/metrics/figures.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::string> linesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(MetricsText, SaysWhatTheServiceSaid) {
  const std::string text = Figures().text();
  for (const char* line :
       {"faultline_up 1", "faultline_build_info{version=\"0.1.0\"} 1",
        "faultline_coordinator_takeovers_total 2", "faultline_coordinator_takeover_seconds 0.012",
        "faultline_shard_up{shard=\"0\"} 1", "faultline_pages_lost_total 9",
        "faultline_shard_restarts_total{shard=\"0\"} 2",
        "faultline_shard_recovery_seconds{shard=\"0\"} 0.0015",
        "faultline_restore_pages{restore=\"vm1\",state=\"missing\"} 60",
        "faultline_restore_pages{restore=\"vm1\",state=\"faulted\"} 30",
        "faultline_restore_pages{restore=\"vm1\",state=\"removed\"} 10",
        "faultline_restore_info{restore=\"vm1\",id=\"7\",source=\"/snapshots/vm1.mem\",phase=\"serving\"} 1",
        "faultline_restore_age_seconds{restore=\"vm1\"} 2",
        "faultline_fault_events_total{restore=\"vm1\"} 41",
        "faultline_removed_pages_total{restore=\"vm1\"} 10",
        "faultline_pages_total{restore=\"vm1\",how=\"copied\"} 25"})
    EXPECT_THAT(text, HasSubstr(std::string("\n") + line + "\n")) << line;
}

TEST(MetricsText, EveryMetricIsIntroducedOnceAndStandsTogether) {
  for (const cli::Detail detail : {cli::Detail::restores, cli::Detail::shards}) {
    std::set<std::string> introduced;
    std::string current;
    for (const std::string& line : linesOf(Figures().text(detail))) {
      if (line.rfind("# HELP ", 0) == 0) {
        current = line.substr(7, line.find(' ', 7) - 7);
        EXPECT_TRUE(introduced.insert(current).second) << current;
      } else if (line.rfind("# TYPE ", 0) == 0) {
        EXPECT_EQ(line.rfind("# TYPE " + current + " ", 0), 0u) << line;
      } else {
        EXPECT_EQ(line.rfind(current, 0), 0u) << line;
      }
    }
  }
}

TEST(MetricsText, AHistogramCountsUpAndEndsWithAll) {
  Figures figures;
  // 1 us, 100 us, 100 s: below the first bound, between, above the last.
  Figures::fill(figures.stats().getShards()[0].initEventToDone(), {1'000, 100'000, 100'000'000'000});
  std::vector<std::uint64_t> counts;
  for (const std::string& line : linesOf(figures.text()))
    if (line.rfind("faultline_fault_seconds_bucket", 0) == 0)
      counts.push_back(std::stoull(line.substr(line.rfind(' ') + 1)));
  ASSERT_GT(counts.size(), 3u);
  EXPECT_TRUE(std::is_sorted(counts.begin(), counts.end()));
  EXPECT_EQ(counts.front(), 1u);
  EXPECT_EQ(counts[counts.size() - 2], 2u);
  EXPECT_EQ(counts.back(), 3u);
  EXPECT_THAT(figures.text(),
              HasSubstr("faultline_fault_seconds_bucket{restore=\"vm1\",le=\"0.000262144\"} 2\n"));
  EXPECT_THAT(figures.text(), HasSubstr("faultline_fault_seconds_sum{restore=\"vm1\"} 100.000101\n"));
  EXPECT_THAT(figures.text(), HasSubstr("faultline_fault_seconds_count{restore=\"vm1\"} 3\n"));
}

TEST(MetricsText, TheShardsOfARestoreAreOneSampleUnlessEachIsWanted) {
  Figures figures;
  auto shards = figures.shards(2);
  shards[0].setCopied(25);
  shards[1].setCopied(17);
  Figures::fill(shards[0].initEventToDone(), {1'000});
  Figures::fill(shards[1].initEventToDone(), {1'000, 1'000'000});
  const std::string together = figures.text();
  EXPECT_THAT(together, HasSubstr("\nfaultline_pages_total{restore=\"vm1\",how=\"copied\"} 42\n"));
  EXPECT_THAT(together, HasSubstr("\nfaultline_fault_seconds_count{restore=\"vm1\"} 3\n"));
  EXPECT_THAT(together, Not(HasSubstr("restore=\"vm1\",shard=")));
  const std::string each = figures.text(cli::Detail::shards);
  EXPECT_THAT(each, HasSubstr("\nfaultline_pages_total{restore=\"vm1\",shard=\"1\",how=\"copied\"} 17\n"));
  EXPECT_THAT(each, HasSubstr("\nfaultline_fault_seconds_count{restore=\"vm1\",shard=\"1\"} 2\n"));
}

TEST(MetricsText, PartsOfAFaultsTimeHaveTheirMeanAndOnRequestEveryBucket) {
  Figures figures;
  Figures::fill(figures.stats().getShards()[0].initCopying(), {1'000, 3'000});
  const std::string brief = figures.text(), whole = figures.text(cli::Detail::shards);
  EXPECT_THAT(brief, HasSubstr("\nfaultline_copy_seconds_sum{restore=\"vm1\"} 4e-06\n"));
  EXPECT_THAT(brief, HasSubstr("\nfaultline_copy_seconds_bucket{restore=\"vm1\",le=\"+Inf\"} 2\n"));
  EXPECT_THAT(brief, Not(HasSubstr("faultline_copy_seconds_bucket{restore=\"vm1\",le=\"1")));
  EXPECT_THAT(whole,
              HasSubstr("faultline_copy_seconds_bucket{restore=\"vm1\",shard=\"0\",le=\"1.024e-06\"} 1\n"));
}

// All shards own a part of every restore, which is the most that there can be.
TEST(MetricsText, TwoHundredRestoresOnSixteenShardsAreAtMostTwentyThousandSamples) {
  std::deque<Figures> restores;
  std::vector<cli::RestoreFigures> list;
  std::vector<rpc::EndedRestore::Reader> over;
  for (unsigned i = 0; i < 200; i++) {
    restores.emplace_back(("vm" + std::to_string(i)).c_str());
    restores.back().shards(16);
    list.push_back(restores.back().restore());
    if (i < 64) over.push_back(restores.back().ended());  // as many as are kept
  }
  auto samples = [&](unsigned count) {
    const std::string text =
        cli::metricsText({restores[0].service().asReader(), {list.begin(), list.begin() + count}, over},
                         cli::Detail::restores);
    const auto lines = linesOf(text);
    return std::count_if(lines.begin(), lines.end(), [](const std::string& l) { return l[0] != '#'; });
  };
  EXPECT_LE(samples(200), 20'000);
  EXPECT_LE(samples(200) - samples(199), 90);  // as cli/metrics_text.h and docs/metrics.md say
}

TEST(MetricsText, ARestoreThatIsOverLeavesItsLastFigures) {
  Figures figures;
  auto shard = figures.shards(1)[0];
  shard.setCopied(80);
  shard.setPrefaulted(50);
  shard.setAround(20);
  Figures::fill(shard.initEventToDone(), {100'000, 100'000});
  const cli::RestoreFigures restore = figures.restore();
  capnp::MallocMessageBuilder message;
  auto ended = message.initRoot<rpc::EndedRestore>();
  ended.setInfo(restore.info);
  ended.setStats(restore.stats);
  ended.setReason(rpc::EndReason::COMPLETED);
  ended.getInfo().initRegions(1)[0].setSize(100ul * 4096);
  const std::string text =
      cli::metricsText({figures.service().asReader(), {}, {ended.asReader()}}, cli::Detail::restores);
  const std::string labels = "{restore=\"vm1\",id=\"7\"";
  for (const std::string& line :
       {"faultline_ended_restore_seconds" + labels + ",reason=\"completed\"} 2",
        "faultline_ended_restore_first_page_seconds" + labels + "} 0.003",
        "faultline_ended_restore_faults" + labels + "} 41",
        "faultline_ended_restore_pages" + labels + ",state=\"missing\"} 60",
        "faultline_ended_restore_bytes" + labels + ",origin=\"faults\"} 40960",
        "faultline_ended_restore_bytes" + labels + ",origin=\"around\"} 81920",
        "faultline_ended_restore_bytes" + labels + ",origin=\"background\"} 204800"})
    EXPECT_THAT(text, HasSubstr(line + "\n"));
  // The bound of the histogram's bucket that has it.
  EXPECT_THAT(
      text, HasSubstr("faultline_ended_restore_fault_seconds" + labels + ",quantile=\"0.5\"} 0.000114688\n"));
}

TEST(MetricsText, LabelsAreEscaped) {
  const std::string text = Figures("a\"b\\c\nd").text();
  EXPECT_THAT(text, HasSubstr("{restore=\"a\\\"b\\\\c\\nd\"}"));
  EXPECT_THAT(text, Not(HasSubstr("c\nd")));
}

TEST(MetricsText, LabelsAreUtf8WhateverBytesAFilesNameHas) {
  auto of = [](const char* name) {
    const std::string text = Figures(name).text();
    const std::size_t at = text.find("{restore=\"") + 10;
    return text.substr(at, text.find('"', at) - at);
  };
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(of("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"),
            "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(of("a\xff!"), "a" + bad + "!");
  EXPECT_EQ(of("\xe2\x82"), bad + bad);                      // cut off
  EXPECT_EQ(of("\xc0\xaf"), bad + bad);                      // overlong
  EXPECT_EQ(of("\xed\xa0\x80"), bad + bad + bad);            // a surrogate
  EXPECT_EQ(of("\xf4\x90\x80\x80"), bad + bad + bad + bad);  // beyond U+10FFFF
}

TEST(MetricsText, WithoutRestoresThereAreTheServicesOwn) {
  Figures figures;
  const std::string text = cli::metricsText({figures.service().asReader(), {}, {}}, cli::Detail::restores);
  EXPECT_THAT(text, HasSubstr("faultline_shard_up"));
  EXPECT_THAT(text, Not(HasSubstr("restore=")));
}

TEST(MetricsText, NobodyThereIsAFigureToo) {
  EXPECT_THAT(cli::metricsTextOfNobody(), HasSubstr("\nfaultline_up 0\n"));
}

}  // namespace
}  // namespace faultline::test
