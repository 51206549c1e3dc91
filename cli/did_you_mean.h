// A word that was perhaps meant by one that is not known.
#pragma once

#include <string>
#include <vector>

namespace faultline::cli {

// "; did you mean WORD?" for the nearest of `known`, where at most a third of its letters differ; else empty.
std::string didYouMean(const std::string& word, const std::vector<std::string>& known);

}  // namespace faultline::cli
