// Adjacent pages that are alike: all zero, or none of them.
#pragma once

#include <cstdint>

namespace faultline::shard {

struct ContentRun {
  enum class Kind { zero, bytes, lost } kind = Kind::lost;  // lost: the first page cannot be read
  std::uint64_t pages = 0;
};

// How the `pages` small pages at `bytes` begin. Reads them; lost where they are in a mapping whose file has been cut.
// Any thread.
ContentRun contentRun(const char* bytes, std::uint64_t pages);

}  // namespace faultline::shard
