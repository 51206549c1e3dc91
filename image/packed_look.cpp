#include "image/packed_look.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "process/content_size.h"

namespace faultline::image {

bool looksPacked(int file) {
  constexpr std::array<unsigned char, 4> MAGIC{0xb1, 0xea, 0x92, 0x8f};
  const auto bytes = process::contentBytes(file);
  if (!bytes.has_value() || *bytes < MAGIC.size()) return false;
  std::array<unsigned char, 4> end{};
  ssize_t got = 0;
  do got = pread(file, end.data(), end.size(), static_cast<off_t>(*bytes - end.size()));
  while (got < 0 && errno == EINTR);
  if (got < 0) throw std::system_error(errno, std::generic_category(), "its end cannot be read");
  return got == static_cast<ssize_t>(end.size()) && end == MAGIC;
}

}  // namespace faultline::image
