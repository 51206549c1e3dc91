// Comparing two handlers on a noisy machine: interleaved rounds, medians, ratios; and what is printed of
// them.
#pragma once

#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace faultline::bench {

double median(std::vector<double> values);

struct Comparison {
  double ours = 0, theirs = 0;  // medians over the rounds
  double ratio = 0;             // median of the rounds' ratios ours / theirs
};

// Measures both in each of `rounds` rounds, changing who begins.
Comparison compare(unsigned rounds, const std::function<double()>& ours,
                   const std::function<double()>& theirs);

// The same with several others: ours against each, over the same rounds. The best of them is the one with the
// lowest ratio; the best of each round would be the luckiest.
std::vector<Comparison> compareWithEach(unsigned rounds, std::size_t others,
                                        const std::function<double()>& ours,
                                        const std::function<double(std::size_t)>& theirs);

// A line of the table of aims.
struct Verdict {
  std::string what;
  std::string unit;  // of `ours` and `theirs`
  double ours = 0;
  double theirs = 0;                                           // 0 where there is nothing to compare with
  std::string against;                                         // what `theirs` is
  double value = 0;                                            // what the aim is about: most often the ratio
  enum class Aim { atMost, atLeast, none } aim = Aim::atMost;  // none: to be seen beside the others
  double bound = 0;

  bool reached() const { return aim == Aim::none || (aim == Aim::atMost ? value <= bound : value >= bound); }
};

void printHead();
void print(const Verdict& verdict);
nlohmann::json toJson(const Verdict& verdict);

}  // namespace faultline::bench
