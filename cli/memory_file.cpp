#include "cli/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "cli/errors.h"
#include "cli/packed_file.h"
#include "cli/snapshot_identity.h"
#include "process/content_size.h"
#include "process/duplicate.h"
#include "rpc/named_source.h"
#include "rpc/source_uri.h"

namespace faultline::cli {

kj::AutoCloseFd openMemory(const std::string& path) {
  if (rpc::SourceUri::isMeant(path))
    throw CommandError(USAGE,
                       path +
                           " is a source that a server has, and this command reads files: copy it to one "
                           "(nbdcopy URI FILE), and give that");
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

void addFile(Memory& memory, const std::string& path) {
  memory.files.push_back(openMemory(path));
  memory.packed.push_back(isPacked(memory.files.back().get(), path));
}

kj::AutoCloseFd namedSource(const std::string& uri) {
  try {
    return rpc::makeNamedSource(uri);
  } catch (const rpc::BadUri& error) {
    throw CommandError(USAGE, error.what());
  }
}

// A layer that a server has. It is asked when a target comes; so it is taken to be of the size of what lies over it.
image::StackFile namedLayer(const std::vector<image::StackFile>& layers, std::size_t index) {
  image::StackFile layer = layers[index];
  if (index + 1 != layers.size())
    throw CommandError(USAGE, layer.name + " can't be an upper layer: only the lowest can be a server's");
  layer.told = true;
  if (index == 0) return layer;
  const image::StackFile& over = layers[index - 1];
  layer.bytes = over.bytes != 0 ? over.bytes : process::contentBytes(over.file).value_or(0);
  return layer;
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
  for (const std::string& path : paths) addFile(memory, path);
  return memory;
}

std::string absoluteLayer(const std::string& path) {
  return rpc::SourceUri::isMeant(path) ? path : std::filesystem::absolute(path).string();
}

Memory openStack(const std::vector<std::string>& paths) {
  Memory memory{paths, {}};
  for (const std::string& path : paths) {
    if (!rpc::SourceUri::isMeant(path)) {
      addFile(memory, path);
      continue;
    }
    memory.files.push_back(namedSource(path));
    memory.packed.push_back(true);
  }
  std::vector<image::StackFile> layers = layersOf(memory);
  for (std::size_t i = 0; i < paths.size(); i++) {
    if (rpc::SourceUri::isMeant(paths[i]))
      layers[i] = namedLayer(layers, i);
    else if (memory.packed[i])
      layers[i] = packedLayer(memory, i);
  }
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
