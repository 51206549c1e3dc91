#include "bench/matrix_cells.h"

#include <algorithm>

namespace faultline::bench {

namespace {

constexpr std::uint64_t PAGE_SIZES[] = {4096, 2u << 20};

bool wanted(const Cell& cell, Sweep sweep) {
  if (sweep == Sweep::full) return true;
  if (cell.away() == 0) return true;
  const bool usualThreads = cell.mode == Cell::Mode::prefault || cell.threads == 8;
  return sweep == Sweep::axes && cell.away() == 1 && usualThreads && cell.targets == 1;
}

// Reading the whole image again for each cell would take longer than the cell.
std::vector<Cell> warmFirst(std::vector<Cell> cells) {
  std::stable_partition(cells.begin(), cells.end(), [](const Cell& cell) { return !cell.cold; });
  return cells;
}

}  // namespace

std::string nameOf(Cell::Mode mode) {
  static const char* names[] = {"faults", "prefault", "faults while prefaulting"};
  return names[static_cast<int>(mode)];
}

std::vector<Cell> demandCells(Sweep sweep) {
  std::vector<Cell> cells;
  for (const unsigned threads : {1u, 2u, 4u, 8u, 32u})
    for (const unsigned targets : {1u, 4u, 16u})
      for (const std::uint64_t pageSize : PAGE_SIZES)
        for (const Touch touch : {Touch::read, Touch::write, Touch::zero, Touch::removed})
          for (const bool cold : {false, true})
            for (const bool removals : {false, true}) {
              const Cell cell{.threads = threads,
                              .targets = targets,
                              .pageSize = pageSize,
                              .touch = touch,
                              .cold = cold,
                              .removals = removals};
              // A target needs a thread, and what does not come from the source is neither cold nor warm.
              const bool ofSource = touch == Touch::read || touch == Touch::write;
              if (threads >= targets && (ofSource || !cold) && wanted(cell, sweep)) cells.push_back(cell);
            }
  return warmFirst(cells);
}

std::vector<Cell> prefaultCells(Sweep sweep) {
  std::vector<Cell> cells;
  for (const unsigned threads : {0u, 1u, 8u, 32u})
    for (const std::uint64_t pageSize : PAGE_SIZES)
      for (const bool cold : {false, true})
        for (const auto& [events, removals] : {std::pair{false, false}, {true, false}, {true, true}}) {
          const Cell cell{.mode = threads == 0 ? Cell::Mode::prefault : Cell::Mode::both,
                          .threads = threads,
                          .pageSize = pageSize,
                          .cold = cold,
                          .removeEvents = events,
                          .removals = removals};
          // A cold prefault takes seconds: beside faults, once.
          const bool slow = cold && threads != 0;
          if (wanted(cell, slow ? std::min(sweep, Sweep::axes) : sweep)) cells.push_back(cell);
        }
  return warmFirst(cells);
}

}  // namespace faultline::bench
