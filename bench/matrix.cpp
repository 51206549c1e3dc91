#include "bench/matrix.h"

#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "bench/breakdown.h"
#include "bench/handler.h"
#include "bench/image.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t MIB = 1u << 20;

struct Cell {
  unsigned shards = 2, threads = 8, targets = 1;
  std::uint64_t pageSize = 4096;
  Touch touch = Touch::read;
  bool cold = false, removals = false;
  bool prefault = false;  // goes on while the threads fault
};

class Matrix {
 public:
  explicit Matrix(const MatrixOptions& options)
      : options_(options), image_(makeImage(options.directory + "/image", 512 * MIB, 512 * MIB)) {}

  MatrixResult measure() {
    for (const unsigned shards : {1u, 2u, 4u, 8u, 16u}) {
      const Faultline server(options_.directory, image_.path, {.shards = shards});
      for (const Cell& cell : demandCells(shards)) add(cell, server.socket());
      Faultline busy(options_.directory, image_.path, {.shards = shards, .prefault = true});
      for (const unsigned threads : {1u, 8u, 32u})
        add({.shards = shards, .threads = threads, .prefault = true}, busy.socket());
      for (const bool cold : {false, true}) addPrefault(shards, cold, busy);
    }
    histogram();
    breakdown();
    return std::move(result_);
  }

 private:
  std::vector<Cell> demandCells(unsigned shards) const {
    std::vector<Cell> cells;
    for (const unsigned threads : {1u, 2u, 4u, 8u, 32u})
      for (const unsigned targets : {1u, 4u, 16u})
        for (const std::uint64_t pageSize : {std::uint64_t{4096}, 2 * MIB})
          for (const Touch touch : {Touch::read, Touch::write, Touch::zero, Touch::removed})
            for (const bool cold : {false, true})
              for (const bool removals : {false, true}) {
                const Cell cell{shards, threads, targets, pageSize, touch, cold, removals, false};
                // A target needs a thread, and what does not come from the source is neither cold nor warm.
                if (threads < targets || (cold && (touch == Touch::zero || touch == Touch::removed)))
                  continue;
                const int away = (pageSize != 4096) + (touch != Touch::read) + cold + removals;
                if (options_.full || away == 0 || (away == 1 && threads == 8 && targets == 1))
                  cells.push_back(cell);
              }
    return cells;
  }

  void add(const Cell& cell, const std::string& socket) {
    Workload workload;
    workload.bytes = cell.pageSize == 4096 ? (cell.cold ? 8 : 32) * MIB : 64 * MIB;
    workload.pageSize = cell.pageSize;
    workload.threads = cell.threads;
    workload.targets = cell.targets;
    if (cell.prefault) workload.regionBytes = image_.dataBytes;
    workload.touch = cell.touch;
    workload.removesPerSecond = cell.removals ? 5000 : 0;
    cell.cold ? makeCold(image_) : makeWarm(image_);
    const Measured measured = run(workload, image_, socket);
    const auto us = [&](double q) { return static_cast<double>(measured.latency.quantile(q)) * 1e-3; };
    put(cell, cell.prefault ? "faults while prefaulting" : "faults", measured.perSecond(), us(0.5), us(0.99),
        us(0.999), measured.perSecond() * static_cast<double>(cell.pageSize) / static_cast<double>(1u << 30));
  }

  void addPrefault(unsigned shards, bool cold, const Faultline& server) {
    cold ? makeCold(image_) : makeWarm(image_);
    const double seconds = prefaultSeconds(server, image_, true);
    put({.shards = shards, .threads = 0, .cold = cold, .prefault = true}, "prefault",
        static_cast<double>(image_.dataBytes) / 4096 / seconds, 0, 0, 0,
        static_cast<double>(image_.dataBytes) / static_cast<double>(1u << 30) / seconds);
  }

  void put(const Cell& cell, const std::string& mode, double perSecond, double p50, double p99, double p999,
           double gibPerSecond) {
    result_.cells.push_back({{"mode", mode},
                             {"shards", cell.shards},
                             {"threads", cell.threads},
                             {"targets", cell.targets},
                             {"page_size", cell.pageSize},
                             {"touch", nameOf(cell.touch)},
                             {"source", cell.cold ? "cold" : "warm"},
                             {"removals", cell.removals ? 5000 : 0},
                             {"pages_per_second", perSecond},
                             {"gib_per_second", gibPerSecond},
                             {"p50_us", p50},
                             {"p99_us", p99},
                             {"p999_us", p999}});
    fmt::print(stderr, "\r{} cells", result_.cells.size());
    std::fflush(stderr);
  }

  // As the target saw them.
  void histogram() {
    const Faultline server(options_.directory, image_.path, {});
    for (const unsigned threads : {1u, 8u, 32u}) {
      makeWarm(image_);
      const Measured measured = run({.threads = threads}, image_, server.socket());
      for (unsigned thousandths = 1; thousandths < 1000; thousandths++) {
        const double q = thousandths * 1e-3;
        result_.histogram.push_back({{"threads", threads},
                                     {"fraction", q},
                                     {"us", static_cast<double>(measured.latency.quantile(q)) * 1e-3}});
      }
    }
  }

  void breakdown() {
    for (const Placement placement : {Placement::oneCpu, Placement::across, Placement::free}) {
      Faultline server(options_.directory, image_.path, {.placement = placement});
      makeWarm(image_);
      for (const Part& part : breakDown(server, image_, {.placement = placement}))
        result_.breakdown.push_back(
            {{"placement", nameOf(placement)}, {"part", part.name}, {"us", part.ns * 1e-3}});
    }
    fmt::print(stderr, "\n");
  }

  const MatrixOptions options_;
  const BenchImage image_;
  MatrixResult result_;
};

}  // namespace

MatrixResult measureMatrix(const MatrixOptions& options) {
  return Matrix(options).measure();
}

std::string toCsv(const nlohmann::json& rows) {
  std::string text;
  if (rows.empty()) return text;
  for (const auto& [key, value] : rows.front().items()) text += (text.empty() ? "" : ",") + key;
  text += "\n";
  for (const auto& row : rows) {
    bool first = true;
    for (const auto& [key, value] : row.items()) {
      text += first ? "" : ",";
      text += value.is_string() ? value.get<std::string>() : value.dump();
      first = false;
    }
    text += "\n";
  }
  return text;
}

}  // namespace faultline::bench
