#include "cli/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "cli/errors.h"
#include "image/stack.h"
#include "process/content_size.h"

namespace faultline::cli {

kj::AutoCloseFd openMemory(const std::string& path) {
  // Not waiting for a writer, should it be a pipe.
  kj::AutoCloseFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
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
  // io_uring would take the flag for a wish not to wait.
  if (fcntl(fd.get(), F_SETFL, 0) != 0)
    throw CommandError(FAILED, "memory file " + path + ": " + std::strerror(errno));
  return fd;
}

std::string Memory::name() const {
  std::string text;
  for (const std::string& path : paths) text += (text.empty() ? "" : " over ") + path;
  return text;
}

Memory openStack(const std::vector<std::string>& paths) {
  Memory memory{paths, {}};
  std::vector<image::StackFile> stack;
  for (const std::string& path : paths) {
    memory.files.push_back(openMemory(path));
    stack.push_back({memory.files.back().get(), path, path});
  }
  if (const auto why = image::whyNotStack(stack)) throw CommandError(USAGE, *why);
  return memory;
}

}  // namespace faultline::cli
