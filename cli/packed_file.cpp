#include "cli/packed_file.h"

#include <cstdint>
#include <utility>

#include "cli/errors.h"
#include "packed/error.h"
#include "process/content_size.h"

namespace faultline::cli {

namespace {

std::uint64_t bytesOf(int file) {
  return process::contentBytes(file).value_or(0);
}

}  // namespace

bool isPacked(int file, const std::string& path) {
  return packed::hasSeekTable(packed::FileBytes(file, path, bytesOf(file)));
}

PackedFile packedFile(kj::AutoCloseFd file, const std::string& path) {
  try {
    packed::Image image(file.get(), path, bytesOf(file.get()));
    return {kj::mv(file), std::move(image)};
  } catch (const packed::Refused& error) {
    throw CommandError(USAGE, error.what());
  }
}

void requirePlain(int file, const std::string& path) {
  if (isPacked(file, path))
    throw CommandError(USAGE,
                       path + " is a packed image; unpack it first (faultline unpack), and give the result");
}

}  // namespace faultline::cli
