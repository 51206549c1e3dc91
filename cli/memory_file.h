// The snapshot's memory, as the user names it.
#pragma once

#include <kj/io.h>

#include <string>
#include <vector>

#include "image/stack.h"

namespace faultline::cli {

// Opens a snapshot's memory for reading: a file, or a block device. CommandError(USAGE) where it is missing, something
// else, empty, or not readable.
kj::AutoCloseFd openMemory(const std::string& path);

// A snapshot's memory: one file, or differential snapshots over the one that they are of. The top one first.
struct Memory {
  std::vector<std::string> paths;
  std::vector<kj::AutoCloseFd> files;
  // Which of them are fetched: packed images, and what names a server's (rpc/named_source.h).
  std::vector<bool> packed{};

  std::string name() const;  // for messages: "TOP over BASE"
};

// What --memory and --over name, in one list.
std::vector<std::string> pathsOf(const std::string& memory, const std::vector<std::string>& over);
// Opens all of them, files, the top one first. CommandError(USAGE) as for one.
Memory openLayers(const std::vector<std::string>& paths);
// A layer's name as a process in another directory finds it: its absolute path, or its URI.
std::string absoluteLayer(const std::string& path);
// openLayers(), where the lowest may be named by the URI of a server's, which is not asked yet; and CommandError(USAGE) where they cannot be the layers of one source (image/stack.h), or a packed image
// cannot be used, or lies over another memory than it was made of.
Memory openStack(const std::vector<std::string>& paths);
// As image/ has them; borrowed. Of files none of which is packed.
std::vector<image::StackFile> layersOf(const Memory& memory);

}  // namespace faultline::cli
