// docs/metrics.md names every metric there is and no other; rules and dashboard use none that there is not.

#include <gtest/gtest.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "tests/metrics/figures.h"

namespace faultline::test {
namespace {

using Names = std::set<std::string>;

Names namesIn(const std::string& text, const std::string& pattern) {
  Names names;
  const std::regex expression(pattern);
  for (std::sregex_iterator at(text.begin(), text.end(), expression), end; at != end; ++at)
    names.insert((*at)[1]);
  return names;
}

std::string fileText(const std::string& path) {
  std::ifstream file(FAULTLINE_SOURCE_DIR "/" + path);
  EXPECT_TRUE(file) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Names said() {
  return namesIn(Figures().text(), "# TYPE (faultline_\\w+)");
}

TEST(MetricNames, AreAllDocumented) {
  EXPECT_EQ(namesIn(fileText("docs/metrics.md"), "`(faultline_\\w+)`"), said());
}

TEST(MetricNames, OfRulesAndDashboardExist) {
  const Names known = said();
  for (const char* path : {"docs/prometheus/faultline.rules.yml", "docs/grafana/faultline.json"}) {
    const Names used = namesIn(fileText(path), "(faultline_\\w+)");
    EXPECT_GT(used.size(), 3u) << path;
    for (std::string name : used) {
      if (name.find('_') == std::string::npos) continue;
      name = std::regex_replace(name, std::regex("_(bucket|sum|count)$"), "");
      EXPECT_EQ(known.count(name), 1u) << path << " uses " << name;
    }
  }
}

}  // namespace
}  // namespace faultline::test
