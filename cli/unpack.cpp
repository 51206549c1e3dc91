// `faultline unpack`: the memory file that was packed.

#include "packed/unpack.h"

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/memory_file.h"
#include "cli/output_file.h"
#include "cli/packed_file.h"
#include "cli/work_progress.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct Options {
  std::string input, output;
  bool force = false, asJson = false;
};

int unpack(const Options& options) {
  const PackedFile in = packedFile(openMemory(options.input), options.input);
  image::NewFile out = outputFile(options.output, {in.file.get()}, options.force);
  std::uint64_t data = 0;
  {
    WorkProgress progress("unpacking " + options.input, in.image.bytes());
    data = packed::unpack(in.image, out.fd(), options.output,
                          [&](std::uint64_t offset) { progress.reached(offset); });
    out.publish();
  }
  if (options.asJson)
    printf("%s\n", json{{"path", options.output}, {"bytes", in.image.bytes()}, {"data_bytes", data}}
                       .dump(-1, ' ', true, json::error_handler_t::replace)
                       .c_str());
  else
    printf("%s: %s, %s of it data\n", process::plainText(options.output).c_str(),
           humanBytes(in.image.bytes()).c_str(), humanBytes(data).c_str());
  return OK;
}

}  // namespace

void addUnpack(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("unpack", "Write the memory file that was packed");
  command->description(
      "Write the memory file that was packed, and check each of its frames. Pages of zeros of a full image "
      "become holes; a\ndifferential one gets the holes that it had. Files of other writers of the zstd "
      "seekable "
      "format are taken, if they have\nchecksums. The file is there when it is complete, or not at all.\n\n"
      "Examples:\n"
      "  faultline unpack vm.mem.zst vm.mem");
  command->add_option("IN", options->input, "The packed image")->required();
  command->add_option("OUT", options->output, "The file to write")->required();
  command->add_flag("--force", options->force, "Replace OUT if it is there, in one step");
  command->add_flag("--json", options->asJson, "Print one JSON object");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return unpack(*options); }; });
}

}  // namespace faultline::cli
