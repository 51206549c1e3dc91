// The kernel's own speed: UFFDIO_COPY of everything, from several threads, without faults.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "bench/placement.h"

namespace faultline::bench {

// GiB/s over `bytes` of 4 KiB pages, or of 2 MiB pages where `pageSize` says so; each call copies
// `callBytes`. Throws std::runtime_error where the machine does not allow it.
double bulkCopy(unsigned threads, std::uint64_t callBytes, std::uint64_t bytes, std::uint64_t pageSize,
                Placement placement);

// The speed over `bytes` of 4 KiB pages, free, by threads and size of call: it shows the cost of a call
// beside the copy, and the gain of a second thread. Medians of interleaved rounds.
using BulkTable = std::map<std::pair<unsigned, std::uint64_t>, double>;
BulkTable measureBulk(unsigned rounds, std::uint64_t bytes);
// Prints a line for each size of call.
void print(const BulkTable& table);

}  // namespace faultline::bench
