#include "image/stack.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "process/content_size.h"

namespace faultline::image {

namespace {

using FileNumber = std::pair<dev_t, ino_t>;

std::optional<FileNumber> numberOf(int file) {
  struct stat status {};
  if (fstat(file, &status) != 0) return std::nullopt;
  // A device has many nodes.
  return S_ISBLK(status.st_mode) ? FileNumber(status.st_rdev, 0) : FileNumber(status.st_dev, status.st_ino);
}

}  // namespace

std::optional<std::string> whyNotStack(const std::vector<StackFile>& files, Look look) {
  if (files.size() < 2) return std::nullopt;
  if (files.size() > process::MOST_LAYERS)
    return std::to_string(files.size()) + " layers are more than the " +
           std::to_string(process::MOST_LAYERS) +
           " that a source can have: flatten some of them (faultline flatten)";
  const StackFile& base = files.back();
  const auto bytesOf = [](const StackFile& layer) -> std::optional<std::uint64_t> {
    return layer.bytes != 0 ? layer.bytes : process::contentBytes(layer.file);
  };
  const auto baseBytes = bytesOf(base);
  std::map<FileNumber, const StackFile*> seen;
  for (const StackFile& layer : files) {
    const auto number = numberOf(layer.file);
    const auto bytes = bytesOf(layer);
    if (!number.has_value() || !bytes.has_value())
      return "layer " + layer.name + " cannot be looked at: " + std::strerror(errno);
    if (const auto [other, first] = seen.emplace(*number, &layer); !first)
      return "layer " + layer.name + " is the same file as layer " + other->second->name +
             ": name each file once, the newest first";
    if (bytes != baseBytes)
      return "layer " + layer.name + " has " + std::to_string(*bytes) + " bytes and " + base.name + " has " +
             std::to_string(baseBytes.value_or(0)) +
             ": all layers of a snapshot are of one size, that of the target's memory; is it of another "
             "target, or cut?";
  }
  for (std::size_t i = 0; i + 1 < files.size(); i++)
    if (const auto why = files[i].told ? std::nullopt : whyNotUpper(files[i].file, files[i].path, look))
      return files[i].name + " can't be an upper layer: " + *why;
  return std::nullopt;
}

}  // namespace faultline::image
