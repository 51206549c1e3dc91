#include "cli/image_stack.h"

#include "cli/errors.h"
#include "cli/memory_file.h"
#include "image/upper_layer.h"
#include "process/content_size.h"

namespace faultline::cli {

namespace {
constexpr std::uint64_t PAGE = 4096;
}

void addOver(CLI::App& command, StackOptions& options) {
  command
      .add_option("--over", options.over,
                  "The layer below it; repeatable, the newest first, the base (a full snapshot) last")
      ->allow_extra_args(false);
}

ImageStack::ImageStack(const StackOptions& options) {
  std::vector<std::string> paths{options.top};
  paths.insert(paths.end(), options.over.begin(), options.over.end());
  for (const std::string& path : paths) {
    files_.push_back(openMemory(path));
    layers_.push_back({files_.back().get(), path, path});
  }
  bytes_ = process::contentBytes(layers_.front().file).value_or(0);
  if (bytes_ % PAGE != 0)
    throw CommandError(
        USAGE, options.top + " has " + std::to_string(bytes_) +
                   " bytes, which are not whole pages of 4096 bytes: was it cut off? Give the file as it "
                   "was written");
  if (const auto why = image::whyNotStack(layers_)) throw CommandError(USAGE, *why);
  // All of it is going to be read: look at all of it.
  for (std::size_t i = 0; i + 1 < layers_.size(); i++)
    if (const auto why = image::whyNotUpper(layers_[i].file, layers_[i].path, image::Look::whole))
      throw CommandError(USAGE, layers_[i].name + " can't be an upper layer: " + *why);
}

}  // namespace faultline::cli
