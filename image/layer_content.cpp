#include "image/layer_content.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#include "process/content_size.h"

namespace faultline::image {

namespace {

std::runtime_error failure(const std::string& why) {
  return std::runtime_error("the memory file can't be read to tell which snapshot it is: " + why);
}

std::uint64_t bytesOf(int file) {
  const auto size = process::contentBytes(file);
  if (!size.has_value()) throw failure(std::strerror(errno));
  return *size;
}

}  // namespace

PlainContent::PlainContent(int file) : file_(file), bytes_(bytesOf(file)) {}

void PlainContent::read(std::uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = pread(file_, to.data(), to.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      throw failure("at offset " + std::to_string(offset) + ": " +
                    (got < 0 ? std::strerror(errno) : "it has become shorter"));
    to = to.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
}

std::uint64_t PlainContent::dataFrom(std::uint64_t offset) {
  const off_t data = lseek(file_, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0 && errno != ENXIO) throw failure(std::strerror(errno));
  return data < 0 ? bytes_ : static_cast<std::uint64_t>(data);
}

}  // namespace faultline::image
