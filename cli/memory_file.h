// The snapshot's memory, as the user names it.
#pragma once

#include <kj/io.h>

#include <string>

namespace faultline::cli {

// Opens a snapshot's memory file for reading. CommandError(USAGE) where it is missing, a directory, empty, or
// not readable.
kj::AutoCloseFd openMemory(const std::string& path);

}  // namespace faultline::cli
