// The sweep over shards, owners, threads, targets, page sizes, kinds of touch, warmth of the source and
// removals.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

namespace faultline::bench {

struct MatrixOptions {
  std::string directory;  // for image and sockets
  bool full = false;      // every combination; else one axis after the other around a usual case
};

// An array of cells, each an object of numbers and words; the same keys in all. The usual cells are there for
// the rivals too, and are measured several times: medians, and the least and the most. Progress goes to
// stderr. Also what the plots need: `histogram` and `breakdown`.
struct MatrixResult {
  nlohmann::json cells = nlohmann::json::array();
  nlohmann::json histogram = nlohmann::json::array();  // {handler, threads, run, slower, us}
  nlohmann::json breakdown = nlohmann::json::array();  // {placement, part, us}
};

MatrixResult measureMatrix(const MatrixOptions& options);
// The number of cells, where the huge pages suffice.
std::size_t matrixCells(bool full);

// Rows of an array of flat objects, the keys of the first as the head.
std::string toCsv(const nlohmann::json& rows);

}  // namespace faultline::bench
