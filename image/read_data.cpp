#include "image/read_data.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace faultline::image {

void readData(const StackFile& layer, const Extent& range,
              const std::function<void(std::uint64_t, std::span<const std::byte>)>& piece) {
  constexpr std::uint64_t PIECE = 1u << 20;
  std::vector<std::byte> buffer(std::min(PIECE, range.size));
  posix_fadvise(layer.file, static_cast<off_t>(range.offset), static_cast<off_t>(range.size),
                POSIX_FADV_SEQUENTIAL);
  for (std::uint64_t at = range.offset; at < range.end();) {
    const std::size_t size = std::min(PIECE, range.end() - at);
    std::size_t have = 0;
    while (have < size) {
      const ssize_t got = pread(layer.file, buffer.data() + have, size - have, static_cast<off_t>(at + have));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0)
        throw std::runtime_error(layer.name + " cannot be read at offset " + std::to_string(at + have) +
                                 ": " + (got < 0 ? std::strerror(errno) : "it has become shorter"));
      have += static_cast<std::size_t>(got);
    }
    piece(at, std::span(buffer).first(size));
    at += size;
  }
}

bool isZero(std::span<const std::byte> bytes) {
  // Every byte is that before it, and the first is 0.
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace faultline::image
