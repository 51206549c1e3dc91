#include "packed/file.h"

#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "packed/bytes.h"

namespace faultline::packed {

namespace {

std::system_error failure(int error, const std::string& name, const char* what, std::uint64_t offset) {
  return {error, std::generic_category(),
          name + " cannot be " + what + " at offset " + std::to_string(offset)};
}

}  // namespace

void readAt(int file, const std::string& name, std::uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = pread(file, to.data(), to.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw failure(errno, name, "read", offset);
    if (got == 0) throw failure(EIO, name + " has become shorter and", "read", offset);
    to = to.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
}

void FileBytes::read(std::uint64_t offset, std::span<std::byte> to) const {
  readAt(file_, name_, offset, to);
}

void writeAt(int file, const std::string& name, std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) throw failure(put < 0 ? errno : ENOSPC, name, "written", offset);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
}

}  // namespace faultline::packed
