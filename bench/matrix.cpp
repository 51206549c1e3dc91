#include "bench/matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "bench/breakdown.h"
#include "bench/handler.h"
#include "bench/huge_pages.h"
#include "bench/image.h"
#include "bench/matrix_cells.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t MIB = 1u << 20;
constexpr std::uint64_t HUGE_PAGE = 2 * MIB;
// Of a cell of 2 MiB pages, over all targets; scripts/bench sees to a pool of 128.
constexpr std::uint64_t HUGE_BYTES = 192 * MIB;
constexpr std::uint64_t HUGE_PAGES = HUGE_BYTES / HUGE_PAGE + 16;  // and one a target that is given back
constexpr unsigned REMOVES_PER_SECOND = 5000;                      // asked for

class Matrix {
 public:
  explicit Matrix(const MatrixOptions& options)
      : options_(options), image_(makeImage(options.directory + "/image", 512 * MIB, 512 * MIB)) {}

  MatrixResult measure() {
    if (freeHugePages() < HUGE_PAGES)
      fmt::print(stderr, "left out: cells of 2 MiB pages: they need {} free huge pages\n", HUGE_PAGES);
    for (const unsigned shards : {1u, 2u, 4u, 8u, 16u}) {
      const FaultlineOptions usual{.shards = shards}, allOwn{.shards = shards, .owners = shards};
      sweep(usual, options_.full ? Sweep::full : Sweep::axes);
      if (ownersOf(usual) != shards) sweep(allOwn, Sweep::usual);
    }
    histogram();
    breakdown();
    return std::move(result_);
  }

 private:
  void sweep(FaultlineOptions server, Sweep sweep) {
    measureEach(server, demandCells(sweep));
    server.prefault = true;
    measureEach(server, prefaultCells(sweep));
  }

  void measureEach(const FaultlineOptions& options, const std::vector<Cell>& cells) {
    const Faultline server(options_.directory, image_.path, options);
    for (const Cell& cell : cells) {
      if (cell.pageSize == HUGE_PAGE && freeHugePages() < HUGE_PAGES) continue;
      cell.mode == Cell::Mode::prefault ? prefault(options, cell, server) : faults(options, cell, server);
    }
  }

  void faults(const FaultlineOptions& options, const Cell& cell, const Faultline& server) {
    const bool busy = cell.mode == Cell::Mode::both;
    Workload workload;
    workload.bytes = cell.pageSize != 4096 ? HUGE_BYTES / (busy ? 2 : 1) : (cell.cold ? 8 : 32) * MIB;
    if (busy) workload.regionBytes = cell.pageSize == 4096 ? image_.dataBytes : HUGE_BYTES;
    workload.pageSize = cell.pageSize;
    workload.threads = cell.threads;
    workload.targets = cell.targets;
    workload.touch = cell.touch;
    workload.negotiateRemove = cell.removeEvents;
    workload.removesPerSecond = cell.removals ? REMOVES_PER_SECOND : 0;
    cell.cold ? makeCold(image_) : makeWarm(image_, std::max(workload.bytes, workload.regionBytes));
    const Measured measured = run(workload, image_, server.socket());
    put(options, cell, measured.perSecond(), measured.removals, measured.seconds, &measured.latency);
  }

  void prefault(const FaultlineOptions& options, const Cell& cell, const Faultline& server) {
    const std::uint64_t bytes = cell.pageSize == 4096 ? image_.dataBytes : HUGE_BYTES;
    cell.cold ? makeCold(image_) : makeWarm(image_, bytes);
    const Prefault took = bench::prefault(
        server, {.bytes = bytes, .pageSize = cell.pageSize, .negotiateRemove = cell.removeEvents},
        cell.removals ? REMOVES_PER_SECOND : 0);
    put(options, cell, static_cast<double>(bytes) / static_cast<double>(cell.pageSize) / took.seconds,
        took.removals, took.seconds, nullptr);
  }

  void put(const FaultlineOptions& options, const Cell& cell, double pagesPerSecond, std::uint64_t removals,
           double seconds, const target::LatencyHistogram* latency) {
    const auto us = [&](double q) {
      return latency == nullptr ? 0.0 : static_cast<double>(latency->quantile(q)) * 1e-3;
    };
    result_.cells.push_back(
        {{"mode", nameOf(cell.mode)},
         {"shards", options.shards},
         {"owners", ownersOf(options)},
         {"threads", cell.threads},
         {"targets", cell.targets},
         {"page_size", cell.pageSize},
         {"touch", nameOf(cell.touch)},
         {"source", cell.cold ? "cold" : "warm"},
         {"remove_events", cell.removeEvents},
         {"removals", removals},
         {"removals_per_second", seconds > 0 ? static_cast<double>(removals) / seconds : 0.0},
         {"pages_per_second", pagesPerSecond},
         {"gib_per_second", pagesPerSecond * static_cast<double>(cell.pageSize) / (1u << 30)},
         {"p50_us", us(0.5)},
         {"p99_us", us(0.99)},
         {"p999_us", us(0.999)}});
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
