#include "tests/image/layer_file.h"

#include <fcntl.h>
#include <kj/io.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stdexcept>

#include "image/extent_walk.h"

namespace faultline::test {

void writeLayer(const std::string& path, const LayerPages& pages) {
  const kj::AutoCloseFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.get() < 0 || ftruncate(file, static_cast<off_t>(pages.size() * PAGE)) != 0)
    throw std::runtime_error("cannot make " + path);
  for (std::size_t i = 0; i < pages.size(); i++) {
    if (pages[i] == HOLE) continue;
    const std::string page(PAGE, static_cast<char>(pages[i]));
    if (pwrite(file, page.data(), PAGE, static_cast<off_t>(i * PAGE)) != static_cast<ssize_t>(PAGE))
      throw std::runtime_error("cannot write " + path);
  }
}

std::string contentOf(const std::string& path) {
  const kj::AutoCloseFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (file.get() < 0 || fstat(file, &status) != 0) throw std::runtime_error("cannot open " + path);
  std::string bytes(static_cast<std::size_t>(status.st_size), '\1');
  if (pread(file, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw std::runtime_error("cannot read " + path);
  return bytes;
}

std::vector<bool> holesOf(const std::string& path) {
  const kj::AutoCloseFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (file.get() < 0 || fstat(file, &status) != 0) throw std::runtime_error("cannot open " + path);
  const auto bytes = static_cast<std::uint64_t>(status.st_size);
  std::vector<bool> holes(bytes / PAGE, true);
  image::ExtentWalk walk(file, 0, bytes);
  while (const auto extent = walk.next())
    for (std::uint64_t page = extent->offset / PAGE; !extent->hole && page * PAGE < extent->end(); page++)
      holes[page] = false;
  return holes;
}

std::string shownBy(const std::vector<LayerPages>& layers) {
  std::string bytes;
  for (std::size_t page = 0; page < layers.front().size(); page++) {
    int shown = HOLE;
    for (const LayerPages& layer : layers)
      if (shown == HOLE) shown = layer[page];
    bytes.append(PAGE, shown == HOLE ? '\0' : static_cast<char>(shown));
  }
  return bytes;
}

}  // namespace faultline::test
