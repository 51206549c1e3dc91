// The snapshot's memory, as the user names it.
#pragma once

#include <kj/io.h>

#include <string>
#include <vector>

namespace faultline::cli {

// Opens a snapshot's memory for reading: a file, or a block device. CommandError(USAGE) where it is missing, something
// else, empty, or not readable.
kj::AutoCloseFd openMemory(const std::string& path);

// A snapshot's memory: one file, or differential snapshots over the one that they are of. The top one first.
struct Memory {
  std::vector<std::string> paths;
  std::vector<kj::AutoCloseFd> files;

  std::string name() const;  // for messages: "TOP over BASE"
};

// Opens all of them. CommandError(USAGE) as for one, and where they cannot be the layers of one source
// (image/stack.h).
Memory openStack(const std::vector<std::string>& paths);

}  // namespace faultline::cli
