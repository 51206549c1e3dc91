// A packed image, as the user names it.
#pragma once

#include <kj/io.h>

#include <optional>
#include <string>

#include "packed/image.h"

namespace faultline::cli {

struct PackedFile {
  kj::AutoCloseFd file;
  packed::Image image;  // of `file`
};

// Whether a file ends as a packed image does. `file`: as openMemory() gives it. CommandError(FAILED) where it cannot be
// read.
bool isPacked(int file, const std::string& path);

// Checks table and description of a packed image. `file`: as openMemory() gives it. CommandError(USAGE) with reason and
// way out where it is none, or none that can be used.
PackedFile packedFile(kj::AutoCloseFd file, const std::string& path);

// CommandError(USAGE) where `file` is packed already, or packed and is to be plain.
void requirePlain(int file, const std::string& path);

}  // namespace faultline::cli
