#include "cli/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "cli/errors.h"
#include "process/content_size.h"

namespace faultline::cli {

kj::AutoCloseFd openMemory(const std::string& path) {
  kj::AutoCloseFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0)
    throw CommandError(
        USAGE, "memory file " + path + ": " + std::strerror(errno) + "; give the snapshot's memory file");
  struct stat status {};
  fstat(fd.get(), &status);
  if (S_ISDIR(status.st_mode))
    throw CommandError(USAGE, "memory file " + path + " is a directory; give the snapshot's memory file");
  const auto bytes = process::contentBytes(fd.get());
  if (!bytes.has_value())
    throw CommandError(USAGE, "memory file " + path +
                                  " is no regular file and no block device; give the snapshot's memory file");
  if (*bytes == 0) throw CommandError(USAGE, "memory file " + path + " is empty; was the snapshot written?");
  return fd;
}

}  // namespace faultline::cli
