// Figures as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::process {

// "17 B", "1.5 GiB": the largest unit that is not above the value, up to TiB.
std::string humanBytes(std::uint64_t bytes);
// "0.3 us", "1.5 ms", "75.0 s".
std::string humanNs(std::uint64_t ns);

}  // namespace faultline::process
