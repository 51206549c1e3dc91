// The snapshot's memory, as the user names it.
#pragma once

#include <kj/io.h>

#include <string>

namespace faultline::cli {

// Opens a snapshot's memory for reading: a file, or a block device. CommandError(USAGE) where it is missing, something
// else, empty, or not readable.
kj::AutoCloseFd openMemory(const std::string& path);

}  // namespace faultline::cli
