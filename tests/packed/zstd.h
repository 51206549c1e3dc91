// zstd's own programs, of Debian's package.
#pragma once

#include <string>
#include <vector>

namespace faultline::test {

// Why they are not to be had here; empty where they are.
std::string whyNoZstd();

// Runs `program` (zstd, pzstd) with a time limit. Its exit code; `out`: what it has written to stdout and stderr.
int runZstd(const std::string& program, const std::vector<std::string>& arguments,
            std::string* out = nullptr);

// Bytes that `zstd -d` makes of a file. Throws std::runtime_error with its message where it refuses it.
std::string zstdUnpacked(const std::string& path);

}  // namespace faultline::test
