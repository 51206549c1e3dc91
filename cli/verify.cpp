// `faultline verify`: reads memory files whole and checks what can be checked.

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/image_stack.h"
#include "cli/packed_file.h"
#include "cli/work_progress.h"
#include "image/read_data.h"
#include "image/stack_walk.h"
#include "packed/unpack.h"
#include "process/file_identity.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct VerifyOptions {
  StackOptions stack;
  bool asJson = false;
};

// All data of a layer, also what those above hide: another snapshot may show it. Returns its bytes.
std::uint64_t readAll(const image::StackFile& layer, std::uint64_t bytes) {
  WorkProgress progress("reading " + layer.name, bytes);
  const auto before = process::identityByServer(layer.file);
  std::uint64_t data = 0;
  image::walkStack({layer}, bytes, [&](const image::StackFile&, const image::Extent& extent) {
    image::readData(layer, extent, [&](std::uint64_t offset, std::span<const std::byte> piece) {
      progress.reached(offset);
      data += piece.size();
    });
  });
  progress.reached(bytes);
  if (process::identityByServer(layer.file) != before)
    throw CommandError(FAILED, layer.name +
                                   " has changed while it was read: a snapshot that is served must stay as "
                                   "it is. Try again when nothing writes to it");
  return data;
}

// Unpacks every frame, and compares its checksum.
int verifyPacked(const VerifyOptions& options, const packed::Image& image) {
  {
    WorkProgress progress("reading " + image.name(), image.bytes());
    packed::check(image, [&](std::uint64_t offset) { progress.reached(offset); });
  }
  if (options.asJson)
    printf("%s\n", json{{"bytes", image.bytes()},
                        {"layers",
                         {{{"path", image.name()}, {"data_bytes", image.map().bytesOf(packed::Kind::data)}}}}}
                       .dump(-1, ' ', true, json::error_handler_t::replace)
                       .c_str());
  else
    printf("%s: each of its %zu frames has the bytes that were packed, %s\n",
           process::plainText(image.name()).c_str(), image.table().frames(),
           humanBytes(image.bytes()).c_str());
  return OK;
}

int verify(const VerifyOptions& options) {
  if (options.stack.over.empty()) {
    kj::AutoCloseFd file = openMemory(options.stack.top);
    if (isPacked(file.get(), options.stack.top))
      return verifyPacked(options, packedFile(kj::mv(file), options.stack.top).image);
  }
  const ImageStack stack(options.stack);
  auto layers = json::array();
  for (const image::StackFile& layer : stack.layers()) {
    const std::uint64_t data = readAll(layer, stack.bytes());
    layers.push_back({{"path", layer.name}, {"data_bytes", data}});
    if (!options.asJson)
      printf("%s: all of its data can be read, %s of %s\n", process::plainText(layer.name).c_str(),
             humanBytes(data).c_str(), humanBytes(stack.bytes()).c_str());
  }
  if (options.asJson)
    printf("%s\n", json{{"bytes", stack.bytes()}, {"layers", layers}}
                       .dump(-1, ' ', true, json::error_handler_t::replace)
                       .c_str());
  return OK;
}

}  // namespace

void addVerify(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* command = app.add_subcommand("verify", "Read a memory file whole, and check it and its layers");
  command->description(
      "Read a memory file and the layers below it whole, and check them: all data can be read, the sizes are "
      "whole "
      "pages and\nagree, the holes of upper layers are to be believed, and nothing has changed meanwhile. A "
      "raw file "
      "has no checksums:\nwhether its bytes are those that were written cannot be told. Of a packed image it "
      "can: "
      "each frame has one.\n\n"
      "Examples:\n"
      "  faultline verify vm.mem\n"
      "  faultline verify diff.mem --over base.mem");
  command->add_option("IMAGE", options->stack.top, "A memory file or block device; the newest layer")
      ->required();
  addOver(*command, options->stack);
  command->add_flag("--json", options->asJson, "Print one JSON object");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return verify(*options); }; });
}

}  // namespace faultline::cli
