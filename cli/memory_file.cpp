#include "cli/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "cli/errors.h"
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

std::vector<std::string> pathsOf(const std::string& memory, const std::vector<std::string>& over) {
  std::vector<std::string> paths{memory};
  paths.insert(paths.end(), over.begin(), over.end());
  return paths;
}

Memory openLayers(const std::vector<std::string>& paths) {
  Memory memory{paths, {}};
  for (const std::string& path : paths) memory.files.push_back(openMemory(path));
  return memory;
}

Memory openStack(const std::vector<std::string>& paths) {
  Memory memory = openLayers(paths);
  if (const auto why = image::whyNotStack(layersOf(memory))) throw CommandError(USAGE, *why);
  return memory;
}

std::vector<image::StackFile> layersOf(const Memory& memory) {
  std::vector<image::StackFile> layers;
  for (std::size_t i = 0; i < memory.files.size(); i++)
    layers.push_back({memory.files[i].get(), memory.paths[i], memory.paths[i]});
  return layers;
}

}  // namespace faultline::cli
