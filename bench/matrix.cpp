#include "bench/matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include "bench/breakdown.h"
#include "bench/figures.h"
#include "bench/handler.h"
#include "bench/huge_pages.h"
#include "bench/image.h"
#include "bench/matrix_cells.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t MIB = 1u << 20;
constexpr std::uint64_t HUGE_PAGE = 2 * MIB;
// Bytes of a cell of 2 MiB pages, over all targets; scripts/bench sees to a pool of 128.
constexpr std::uint64_t HUGE_BYTES = 192 * MIB;
constexpr std::uint64_t HUGE_PAGES = HUGE_BYTES / HUGE_PAGE + 16;  // with one for each target, to give back
constexpr unsigned REMOVES_PER_SECOND = 5000;                      // asked for
constexpr unsigned DRAWN_ROUNDS = 5, HISTOGRAM_ROUNDS = 3;

double micro(std::uint64_t ns) {
  return static_cast<double>(ns) * 1e-3;
}

// The servers, and what is measured of each.
std::vector<std::pair<FaultlineOptions, Sweep>> sweeps(bool full) {
  std::vector<std::pair<FaultlineOptions, Sweep>> all;
  for (const unsigned shards : {1u, 2u, 4u, 8u, 16u}) {
    const FaultlineOptions usual{.shards = shards}, allOwn{.shards = shards, .owners = shards};
    all.emplace_back(usual, full ? Sweep::full : Sweep::axes);
    if (ownersOf(usual) != shards) all.emplace_back(allOwn, Sweep::usual);
  }
  return all;
}

constexpr const char* RIVALS[] = {"floor", "around", "calls"};

// Whether the cell is in a picture.
bool isDrawn(const Cell& cell) {
  return cell.mode == Cell::Mode::faults && cell.away() == 0 && cell.targets == 1;
}

class Matrix {
 public:
  explicit Matrix(const MatrixOptions& options)
      : options_(options), image_(makeImage(options.directory + "/image", 512 * MIB, 512 * MIB)) {}

  MatrixResult measure() {
    if (freeHugePages() < HUGE_PAGES)
      fmt::print(stderr, "left out: cells of 2 MiB pages: they need {} free huge pages\n", HUGE_PAGES);
    for (const auto& [server, cells] : sweeps(options_.full)) sweep(server, cells);
    rivals();
    histogram();
    breakdown();
    return std::move(result_);
  }

 private:
  void sweep(FaultlineOptions server, Sweep sweep) {
    server.keepRegistered = true;  // else the kernel alone answers for holes, and for what was given back
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

  Workload workloadOf(const Cell& cell) const {
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
    return workload;
  }

  // Cells that the plots draw are measured more than once, so that the noise can be drawn too.
  void faults(const FaultlineOptions& options, const Cell& cell, const Handler& server,
              const std::string& handler = "faultline") {
    const Workload workload = workloadOf(cell);
    std::vector<Figures> runs;
    for (unsigned round = 0; round < (isDrawn(cell) ? DRAWN_ROUNDS : 1); round++) {
      cell.cold ? makeCold(image_) : makeWarm(image_, std::max(workload.bytes, workload.regionBytes));
      const Measured measured = run(workload, image_, server.backing());
      const auto us = [&](double q) { return micro(measured.latency.quantile(q)); };
      runs.push_back(
          {measured.touchesPerSecond(), us(0.5), us(0.99), us(0.999), measured.seconds, measured.removals});
    }
    put(handler, options, cell, runs);
  }

  // The drawn cells, measured with the other handlers.
  void rivals() {
    for (const std::string kind : RIVALS) {
      const PlainHandler rival(kind, options_.directory, image_.path, Placement::free);
      for (const Cell& cell : demandCells(Sweep::usual))
        if (isDrawn(cell)) faults({.shards = 0}, cell, rival, kind);
    }
  }

  void prefault(const FaultlineOptions& options, const Cell& cell, const Faultline& server) {
    const std::uint64_t bytes = cell.pageSize == 4096 ? image_.dataBytes : HUGE_BYTES;
    cell.cold ? makeCold(image_) : makeWarm(image_, bytes);
    const Prefault took = bench::prefault(
        server, {.bytes = bytes, .pageSize = cell.pageSize, .negotiateRemove = cell.removeEvents},
        cell.removals ? REMOVES_PER_SECOND : 0);
    put("faultline", options, cell,
        {{static_cast<double>(bytes) / static_cast<double>(cell.pageSize) / took.seconds, 0, 0, 0,
          took.seconds, took.removals}});
  }

  // Figures of a run of a cell.
  struct Figures {
    double pagesPerSecond, p50, p99, p999;  // us
    double seconds;
    std::uint64_t removals;
  };

  void put(const std::string& handler, const FaultlineOptions& options, const Cell& cell,
           const std::vector<Figures>& runs) {
    const auto all = [&](double Figures::*figure) {
      std::vector<double> values;
      values.reserve(runs.size());
      for (const Figures& run : runs) values.push_back(run.*figure);
      return values;
    };
    const auto middle = [&](double Figures::*figure) { return median(all(figure)); };
    const auto least = [&](double Figures::*figure) { return std::ranges::min(all(figure)); };
    const auto most = [&](double Figures::*figure) { return std::ranges::max(all(figure)); };
    const double pages = middle(&Figures::pagesPerSecond), seconds = runs.back().seconds;
    const std::uint64_t removals = runs.back().removals;
    result_.cells.push_back(
        {{"handler", handler},
         {"mode", nameOf(cell.mode)},
         {"shards", options.shards},
         {"owners", options.shards == 0 ? 0 : ownersOf(options)},
         {"threads", cell.threads},
         {"targets", cell.targets},
         {"page_size", cell.pageSize},
         {"touch", nameOf(cell.touch)},
         {"source", cell.cold ? "cold" : "warm"},
         {"remove_events", cell.removeEvents},
         {"removals", removals},
         {"removals_per_second", seconds > 0 ? static_cast<double>(removals) / seconds : 0.0},
         {"runs", runs.size()},
         {"pages_per_second", pages},
         {"pages_per_second_least", least(&Figures::pagesPerSecond)},
         {"pages_per_second_most", most(&Figures::pagesPerSecond)},
         {"gib_per_second", pages * static_cast<double>(cell.pageSize) / (1u << 30)},
         {"p50_us", middle(&Figures::p50)},
         {"p50_us_least", least(&Figures::p50)},
         {"p50_us_most", most(&Figures::p50)},
         {"p99_us", middle(&Figures::p99)},
         {"p99_us_least", least(&Figures::p99)},
         {"p99_us_most", most(&Figures::p99)},
         {"p999_us", middle(&Figures::p999)}});
    fmt::print(stderr, "\r{} cells", result_.cells.size());
    std::fflush(stderr);
  }

  // The share of faults that took longer, as the target saw them, down to one in 30,000. Runs are kept apart,
  // so that the noise is seen.
  void histogram() {
    const Faultline ours(options_.directory, image_.path, {});
    const PlainHandler floor("floor", options_.directory, image_.path, Placement::free);
    for (unsigned round = 0; round < HISTOGRAM_ROUNDS; round++)
      for (const unsigned threads : {1u, 8u, 32u})
        for (const auto& [name, backing] :
             {std::pair{"faultline", ours.backing()}, std::pair{"floor", floor.backing()}}) {
          makeWarm(image_);
          const Measured measured = run({.threads = threads}, image_, backing);
          for (int step = 0; step <= 90; step++) {
            const double slower = std::pow(10, -step / 20.0);
            result_.histogram.push_back({{"handler", name},
                                         {"threads", threads},
                                         {"run", round},
                                         {"slower", slower},
                                         {"us", micro(measured.latency.quantile(1 - slower))}});
          }
        }
  }

  void breakdown() {
    for (const Placement placement : {Placement::oneCpu, Placement::across, Placement::free}) {
      // Single pages: each touch is a fault, so what was read and what was touched are the same.
      Faultline server(options_.directory, image_.path, {.placement = placement, .around = "off"});
      makeWarm(image_);
      const auto put = [&](const std::string& part, double us) {
        result_.breakdown.push_back({{"placement", nameOf(placement)}, {"part", part}, {"us", us}});
      };
      for (const Part& part : breakDown(server, image_, {.placement = placement}))
        put(part.name, part.ns * 1e-3);
      const PlainHandler floor("floor", options_.directory, image_.path, placement);
      const Measured measured = run({.placement = placement}, image_, floor.backing());
      put("floor", 1e6 * measured.seconds / static_cast<double>(measured.touches));
    }
    fmt::print(stderr, "\n");
  }

  const MatrixOptions options_;
  const BenchImage image_;
  MatrixResult result_;
};

}  // namespace

std::size_t matrixCells(bool full) {
  const auto drawn = std::ranges::count_if(demandCells(Sweep::usual), isDrawn);
  std::size_t cells = std::size(RIVALS) * static_cast<std::size_t>(drawn);
  for (const auto& [server, sweep] : sweeps(full))
    cells += demandCells(sweep).size() + prefaultCells(sweep).size();
  return cells;
}

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
