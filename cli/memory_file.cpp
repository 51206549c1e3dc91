#include "cli/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "cli/errors.h"

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
  if (!S_ISREG(status.st_mode))
    throw CommandError(USAGE, "memory file " + path +
                                  " is no regular file (a device, a pipe?); give the snapshot's memory file");
  if (status.st_size == 0)
    throw CommandError(USAGE, "memory file " + path + " is empty; was the snapshot written?");
  return fd;
}

}  // namespace faultline::cli
