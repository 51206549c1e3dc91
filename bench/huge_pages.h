// Free huge pages, which measurements of 2 MiB pages need.
#pragma once

#include <cstdint>

namespace faultline::bench {

std::uint64_t freeHugePages();

}  // namespace faultline::bench
