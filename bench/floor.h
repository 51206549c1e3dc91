// The floor: the least that a handler can cost on this kernel, and the least that it can cost a page.
#pragma once

#include <string>

#include "bench/plain_handler.h"

namespace faultline::bench {

// A process with one thread: poll, read a batch, UFFDIO_COPY from the mapped memory file. Never returns,
// except by exception.
[[noreturn]] void serveFloor(const std::string& socket, const std::string& memory, Readiness readiness);

// A floor that copies the aligned 64 KiB around each fault, as plain handlers do to have fewer faults.
[[noreturn]] void serveAround(const std::string& socket, const std::string& memory, Readiness readiness);

}  // namespace faultline::bench
