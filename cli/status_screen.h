// The screen of `faultline status --watch`: stalls first, then the restores in a table that fits.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace faultline::cli {

struct RestoreChoice {
  std::string filter;         // names that have this in them; empty: all
  std::string sort = "name";  // one of SORTS
};
inline const std::vector<std::string> SORTS = {"name", "missing", "faults", "bytes", "p99", "waiting"};

// The restores of a look (`faultline status --json`) that are chosen, in order. Figures go from the highest down.
nlohmann::json chosenOf(const nlohmann::json& look, const RestoreChoice& choice);

// Restores whose threads wait and get no page: those that wait in both looks, while no fault was answered in between.
// A line for each cause, for people, the most threads first.
std::vector<std::string> stallsOf(const nlohmann::json& before, const nlohmann::json& now);

// `before`: the look before; null at the first. At most `height` lines of at most `width` columns, each with its end.
std::string screenOf(const nlohmann::json& before, const nlohmann::json& now, const RestoreChoice& choice,
                     unsigned width, unsigned height);

}  // namespace faultline::cli
