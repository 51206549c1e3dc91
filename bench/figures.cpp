#include "bench/figures.h"

#include <fmt/format.h>

#include <algorithm>

namespace faultline::bench {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Comparison compare(unsigned rounds, const std::function<double()>& ours,
                   const std::function<double()>& theirs) {
  return compareWithEach(rounds, 1, ours, [&](std::size_t) { return theirs(); }).front();
}

std::vector<Comparison> compareWithEach(unsigned rounds, std::size_t others,
                                        const std::function<double()>& ours,
                                        const std::function<double(std::size_t)>& theirs) {
  std::vector<std::function<double()>> runs{ours};
  for (std::size_t i = 0; i < others; i++) runs.push_back([&theirs, i] { return theirs(i); });
  const auto figures = interleave<double>(rounds, runs);
  std::vector<Comparison> results;
  for (std::size_t i = 0; i < others; i++)
    results.push_back(compareBy<double>(figures[0], figures[i + 1], [](double figure) { return figure; }));
  return results;
}

namespace {
std::string figure(double value, const std::string& unit) {
  if (value == 0) return "-";
  return value >= 1000 ? fmt::format("{:.0f} {}", value, unit) : fmt::format("{:.4g} {}", value, unit);
}
}  // namespace

void printHead() {
  fmt::print("{:<56} {:>14} {:>14}  {:<20} {:>8} {:>9}  {}\n", "what", "faultline", "against", "", "value",
             "aim", "verdict");
}

void print(const Verdict& v) {
  fmt::print("{:<56} {:>14} {:>14}  {:<20} {:>8.3g} ", v.what, figure(v.ours, v.unit),
             figure(v.theirs, v.unit), v.against, v.value);
  if (v.aim == Verdict::Aim::none)
    fmt::print("{:>9}  no aim\n", "");
  else
    fmt::print("{:>2} {:>6.3g}  {}\n", v.aim == Verdict::Aim::atMost ? "<=" : ">=", v.bound,
               v.reached() ? "reached" : "NOT REACHED");
  std::fflush(stdout);
}

nlohmann::json toJson(const Verdict& v) {
  nlohmann::json json = {{"what", v.what},       {"unit", v.unit},    {"faultline", v.ours},
                         {"against", v.against}, {"other", v.theirs}, {"value", v.value}};
  if (v.aim == Verdict::Aim::none) return json;
  json["aim"] = v.aim == Verdict::Aim::atMost ? "at most" : "at least";
  json["bound"] = v.bound;
  json["reached"] = v.reached();
  return json;
}

}  // namespace faultline::bench
