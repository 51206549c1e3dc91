// The floor: the least that a handler can cost on this kernel.
#pragma once

#include <string>

namespace faultline::bench {

// One process, one thread: poll, read a batch, UFFDIO_COPY from resident memory. Never returns, except by
// exception.
[[noreturn]] void serveFloor(const std::string& socket, const std::string& memory);

}  // namespace faultline::bench
