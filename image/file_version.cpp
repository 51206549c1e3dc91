#include "image/file_version.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>

namespace faultline::image {

namespace {

std::int64_t nsOf(const statx_timestamp& time) {
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

FileVersion FileVersion::of(int file) {
  struct statx status {};
  // FUSE and NFS would else answer for some seconds from what they know.
  if (statx(file, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &status) != 0)
    throw std::system_error(errno, std::generic_category(), "statx");
  if (S_ISBLK(status.stx_mode)) return {};
  return {status.stx_size, nsOf(status.stx_mtime), nsOf(status.stx_ctime)};
}

}  // namespace faultline::image
