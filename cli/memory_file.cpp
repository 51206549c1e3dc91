#include "cli/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "cli/errors.h"
#include "cli/packed_file.h"
#include "cli/snapshot_identity.h"
#include "process/content_size.h"
#include "process/duplicate.h"

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

namespace {

// A layer that is packed, once it was looked at.
image::StackFile packedLayer(const Memory& memory, std::size_t index) {
  const std::string& path = memory.paths[index];
  const PackedFile file = packedFile(process::duplicate(memory.files[index].get()), path);
  const bool lowest = index + 1 == memory.paths.size();
  const auto base = file.image.base();
  if (lowest && base.has_value())
    throw CommandError(USAGE, path + " is a differential image: name what it lies over as well (--over)");
  if (!lowest && !base.has_value())
    throw CommandError(USAGE,
                       path +
                           " can't be an upper layer: it is a full image, and hides what is below it; a "
                           "differential one is packed with --over");
  if (base.has_value()) {
    std::vector<kj::AutoCloseFd> below;
    for (std::size_t i = index + 1; i < memory.files.size(); i++)
      below.push_back(process::duplicate(memory.files[i].get()));
    const std::uint64_t is = identityOf(below).fingerprint;
    if (is != *base)
      throw CommandError(USAGE, path + " lies over a memory of fingerprint " + fingerprintText(*base) +
                                    ", and what is named below it has " + fingerprintText(is) +
                                    ": name its own base (faultline info)");
  }
  return {memory.files[index].get(), path, path, true, file.image.bytes()};
}

}  // namespace

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
  for (const std::string& path : paths) {
    memory.files.push_back(openMemory(path));
    memory.packed.push_back(isPacked(memory.files.back().get(), path));
  }
  return memory;
}

Memory openStack(const std::vector<std::string>& paths) {
  Memory memory = openLayers(paths);
  std::vector<image::StackFile> layers = layersOf(memory);
  for (std::size_t i = 0; i < paths.size(); i++)
    if (memory.packed[i]) layers[i] = packedLayer(memory, i);
  if (const auto why = image::whyNotStack(layers)) throw CommandError(USAGE, *why);
  return memory;
}

std::vector<image::StackFile> layersOf(const Memory& memory) {
  std::vector<image::StackFile> layers;
  for (std::size_t i = 0; i < memory.files.size(); i++)
    layers.push_back({memory.files[i].get(), memory.paths[i], memory.paths[i], false, 0});
  return layers;
}

}  // namespace faultline::cli
