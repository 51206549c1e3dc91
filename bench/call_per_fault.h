// The plain way to hand faults to another process: a Cap'n Proto call for each. Batches and the ring are
// measured against it.
#pragma once

#include <string>

#include "bench/plain_handler.h"

namespace faultline::bench {

// A process reads the uffd and makes a call for each fault; its child answers it with UFFDIO_COPY. Never
// returns, except by exception.
[[noreturn]] void serveByCalls(const std::string& socket, const std::string& memory, Readiness readiness);

}  // namespace faultline::bench
