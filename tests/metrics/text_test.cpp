// The text that Prometheus reads: its form, and what of the service's answers is where.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
        "faultline_pages_total{restore=\"vm1\",shard=\"0\",how=\"copied\"} 25"})
    EXPECT_THAT(text, HasSubstr(std::string("\n") + line + "\n")) << line;
}

TEST(MetricsText, EveryMetricIsIntroducedOnceAndStandsTogether) {
  std::set<std::string> introduced;
  std::string current;
  for (const std::string& line : linesOf(Figures().text())) {
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
  EXPECT_THAT(
      figures.text(),
      HasSubstr("faultline_fault_seconds_bucket{restore=\"vm1\",shard=\"0\",le=\"0.000262144\"} 2\n"));
  EXPECT_THAT(figures.text(),
              HasSubstr("faultline_fault_seconds_sum{restore=\"vm1\",shard=\"0\"} 100.000101\n"));
  EXPECT_THAT(figures.text(), HasSubstr("faultline_fault_seconds_count{restore=\"vm1\",shard=\"0\"} 3\n"));
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
  const std::string text = cli::metricsText(figures.service().asReader(), {});
  EXPECT_THAT(text, HasSubstr("faultline_shard_up"));
  EXPECT_THAT(text, Not(HasSubstr("restore=")));
}

TEST(MetricsText, NobodyThereIsAFigureToo) {
  EXPECT_THAT(cli::metricsTextOfNobody(), HasSubstr("\nfaultline_up 0\n"));
}

}  // namespace
}  // namespace faultline::test
