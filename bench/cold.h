// The speed of the disk: fio's random reads of the file.
#pragma once

#include <cstdint>

#include "bench/workload.h"

namespace faultline::bench {

bool haveFio();

// Reads per second: 4 KiB, random, direct, `depth` at once (io_uring), `bytes` in all. Throws where fio
// fails.
double fioReads(const BenchImage& image, unsigned depth, std::uint64_t bytes);

}  // namespace faultline::bench
