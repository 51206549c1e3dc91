// `faultline flatten`: one file of several layers.

#include "image/flatten.h"

#include <memory>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/image_stack.h"
#include "cli/output_file.h"
#include "cli/work_progress.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

struct FlattenOptions {
  StackOptions stack;
  std::string output;
  bool force = false;
};

int flatten(const FlattenOptions& options) {
  const ImageStack stack(options.stack);
  std::vector<int> files;
  for (const image::StackFile& layer : stack.layers()) files.push_back(layer.file);
  image::NewFile out = outputFile(options.output, files, options.force);
  std::uint64_t data = 0;
  {
    WorkProgress progress("writing " + options.output, stack.bytes());
    data = image::flatten(stack.layers(), stack.bytes(), out,
                          [&](std::uint64_t offset) { progress.reached(offset); });
  }
  printf("%s: %s, %s of it data\n", process::plainText(options.output).c_str(),
         humanBytes(stack.bytes()).c_str(), humanBytes(data).c_str());
  return OK;
}

}  // namespace

void addFlatten(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<FlattenOptions>();
  CLI::App* command =
      app.add_subcommand("flatten", "Write one memory file of a differential one and what it lies over");
  command->description(
      "Write one memory file of a differential snapshot and the layers below it. Pages of zeros become "
      "holes. The file "
      "is there\nwhen it is complete, or not at all; on btrfs and on xfs it shares its bytes with the "
      "layers.\n\n"
      "Examples:\n"
      "  faultline flatten diff.mem --over base.mem whole.mem\n"
      "  faultline flatten diff2.mem --over diff1.mem --over base.mem whole.mem");
  command->add_option("TOP", options->stack.top, "The newest layer")->required();
  addOver(*command, options->stack);
  command->add_option("OUT", options->output, "The file to write")->required();
  command->add_flag("--force", options->force, "Replace OUT if it is there, in one step");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return flatten(*options); }; });
}

}  // namespace faultline::cli
