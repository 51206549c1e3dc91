#include "cli/image_stack.h"

#include "cli/errors.h"
#include "cli/packed_file.h"
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

ImageStack::ImageStack(const StackOptions& options)
    : memory_(openLayers(pathsOf(options.top, options.over))),
      layers_(layersOf(memory_)),
      bytes_(process::contentBytes(layers_.front().file).value_or(0)) {
  for (const image::StackFile& layer : layers_) requirePlain(layer.file, layer.name);
  if (bytes_ % PAGE != 0)
    throw CommandError(
        USAGE, options.top + " has " + std::to_string(bytes_) +
                   " bytes, which are not whole pages of 4096 bytes: was it cut off? Give the file as it "
                   "was written");
  // All of it is going to be read: look at all of it.
  if (const auto why = image::whyNotStack(layers_, image::Look::whole)) throw CommandError(USAGE, *why);
}

}  // namespace faultline::cli
