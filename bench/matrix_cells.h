// Which combinations the sweep measures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/workload.h"

namespace faultline::bench {

struct Cell {
  enum class Mode { faults, prefault, both } mode = Mode::faults;  // `both`: faults while all is populated
  unsigned threads = 8, targets = 1;                               // for a prefault: 0 and 1
  std::uint64_t pageSize = 4096;
  Touch touch = Touch::read;
  bool cold = false;
  bool removeEvents = true;  // negotiated
  bool removals = false;     // pages are given back meanwhile

  // On how many axes it is away from the usual case.
  unsigned away() const {
    return unsigned{pageSize != 4096} + (touch != Touch::read) + cold + !removeEvents + removals;
  }
};

std::string nameOf(Cell::Mode mode);

enum class Sweep {
  usual,  // threads and targets of the usual case
  axes,   // then the other axes, one after the other
  full,   // every combination
};

// Faults alone; those with a warm source first.
std::vector<Cell> demandCells(Sweep sweep);
// The cells that need a server that populates.
std::vector<Cell> prefaultCells(Sweep sweep);

}  // namespace faultline::bench
