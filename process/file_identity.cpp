#include "process/file_identity.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>

namespace faultline::process {

namespace {

std::int64_t nanoseconds(const statx_timestamp& time) {
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

std::uint64_t number(std::uint32_t major, std::uint32_t minor) {
  return static_cast<std::uint64_t>(major) << 32 | minor;
}

// `sync`: which of AT_STATX_... . False: errno says why.
bool look(int file, int sync, FileIdentity& identity) {
  struct statx status {};
  if (statx(file, "", AT_EMPTY_PATH | sync, STATX_BASIC_STATS, &status) != 0) return false;
  if (S_ISBLK(status.stx_mode))
    identity = {.device = number(status.stx_rdev_major, status.stx_rdev_minor)};
  else
    identity = {.device = number(status.stx_dev_major, status.stx_dev_minor),
                .inode = status.stx_ino,
                .bytes = status.stx_size,
                .modified = nanoseconds(status.stx_mtime),
                .changed = nanoseconds(status.stx_ctime),
                .links = status.stx_nlink};
  return true;
}

}  // namespace

FileIdentity identityOf(int file) {
  FileIdentity identity;
  // Not fstat(), which asks the server of a FUSE or network file system.
  return look(file, AT_STATX_DONT_SYNC, identity) ? identity : FileIdentity{};
}

FileIdentity identityByServer(int file) {
  FileIdentity identity;
  if (!look(file, AT_STATX_FORCE_SYNC, identity))
    throw std::system_error(errno, std::generic_category(), "statx");
  return identity;
}

bool sameFile(int one, int other) {
  const FileIdentity first = identityOf(one), second = identityOf(other);
  return first.device != 0 && first.device == second.device && first.inode == second.inode;
}

std::optional<const char*> whatChanged(const FileIdentity& was, const FileIdentity& is) {
  if (was.device != is.device || was.inode != is.inode) return "is another file";
  if (was.bytes != is.bytes) return "has another size";
  if (was.modified != is.modified) return "has been written to";
  // A name that comes or goes changes the time of the last change, too.
  if (was.changed != is.changed && was.links == is.links) return "has been changed";
  return std::nullopt;
}

}  // namespace faultline::process
