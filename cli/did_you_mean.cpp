#include "cli/did_you_mean.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace faultline::cli {

namespace {

// Letters to insert, remove or change, two neighbours that changed places being one (restricted edit distance).
std::size_t distance(const std::string& one, const std::string& other) {
  std::vector<std::size_t> beforeLast(other.size() + 1), last(other.size() + 1), row(other.size() + 1);
  std::iota(last.begin(), last.end(), 0);
  for (std::size_t i = 1; i <= one.size(); i++) {
    row[0] = i;
    for (std::size_t j = 1; j <= other.size(); j++) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (one[i - 1] == other[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1])
        row[j] = std::min(row[j], beforeLast[j - 2] + 1);
    }
    std::swap(beforeLast, last);
    std::swap(last, row);
  }
  return last[other.size()];
}

}  // namespace

std::string didYouMean(const std::string& word, const std::vector<std::string>& known) {
  constexpr std::size_t LONGEST = 64;
  if (word.size() > LONGEST) return "";
  const std::string* nearest = nullptr;
  std::size_t least = 0;
  for (const std::string& each : known) {
    const std::size_t differing = distance(word, each);
    if (differing * 3 > std::max(word.size(), each.size()) || (nearest != nullptr && differing >= least))
      continue;
    nearest = &each;
    least = differing;
  }
  return nearest == nullptr ? "" : "; did you mean " + *nearest + "?";
}

}  // namespace faultline::cli
