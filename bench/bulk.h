// The kernel's own speed: UFFDIO_COPY of everything, from several threads, with nobody faulting.
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

// The same over `bytes` of 4 KiB pages, free, by threads and size of call: what a call costs beside the copy,
// and what a second thread brings. Medians of interleaved rounds.
using BulkTable = std::map<std::pair<unsigned, std::uint64_t>, double>;
BulkTable measureBulk(unsigned rounds, std::uint64_t bytes);
// One line a size of call.
void print(const BulkTable& table);

}  // namespace faultline::bench
