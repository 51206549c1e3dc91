// Figures as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::cli {

// "17 B", "1.5 GiB": the largest unit that is not above the value, up to TiB.
std::string humanBytes(std::uint64_t bytes);
// "0.3 us", "1.5 ms", "75.0 s".
std::string humanNs(std::uint64_t ns);
// Whether stdout is one: a person reads it, and lines may be rewritten.
bool isTerminal();

}  // namespace faultline::cli
