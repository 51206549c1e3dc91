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

// Measures both in each of `rounds` rounds, with alternating begin.
Comparison compare(unsigned rounds, const std::function<double()>& ours,
                   const std::function<double()>& theirs);

// Compares ours with each of several others, over the same rounds. The best of the others is the one with the
// lowest ratio; the best of each round would be the luckiest.
std::vector<Comparison> compareWithEach(unsigned rounds, std::size_t others,
                                        const std::function<double()>& ours,
                                        const std::function<double(std::size_t)>& theirs);

// Runs each once a round, in turn, the last first in every other round. [run][round].
template <typename T>
std::vector<std::vector<T>> interleave(unsigned rounds, const std::vector<std::function<T()>>& runs) {
  std::vector<std::vector<T>> results(runs.size());
  for (unsigned round = 0; round < rounds; round++)
    for (std::size_t i = 0; i < runs.size(); i++) {
      const std::size_t next = round % 2 == 0 ? i : runs.size() - 1 - i;
      results[next].push_back(runs[next]());
    }
  return results;
}

// Compares a figure of the runs of two, round by round.
template <typename T>
Comparison compareBy(const std::vector<T>& ours, const std::vector<T>& theirs,
                     const std::function<double(const T&)>& figure) {
  std::vector<double> a, b, ratios;
  for (std::size_t round = 0; round < ours.size(); round++) {
    a.push_back(figure(ours[round]));
    b.push_back(figure(theirs[round]));
    ratios.push_back(b.back() > 0 ? a.back() / b.back() : 0);
  }
  return {median(a), median(b), median(ratios)};
}

// A line of the table of aims.
struct Verdict {
  std::string what;
  std::string unit;  // unit of `ours` and `theirs`
  double ours = 0;
  double theirs = 0;                                           // 0 where there is nothing to compare with
  std::string against;                                         // name of `theirs`
  double value = 0;                                            // the aim's value: most often the ratio
  enum class Aim { atMost, atLeast, none } aim = Aim::atMost;  // `none`: to be seen beside the others
  double bound = 0;

  bool reached() const { return aim == Aim::none || (aim == Aim::atMost ? value <= bound : value >= bound); }
};

void printHead();
void print(const Verdict& verdict);
nlohmann::json toJson(const Verdict& verdict);

}  // namespace faultline::bench
