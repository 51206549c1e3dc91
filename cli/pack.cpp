// `faultline pack`: a snapshot's memory, compressed so that each page can be found.

#include "packed/packed_content.h"
#include "packed/pack.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/image_stack.h"
#include "cli/output_file.h"
#include "cli/packed_file.h"
#include "cli/snapshot_identity.h"
#include "cli/work_progress.h"
#include "image/extent_walk.h"
#include "process/content_size.h"
#include "process/file_identity.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct Options {
  StackOptions stack;
  std::string output;
  int level = packed::USUAL_LEVEL;
  bool force = false, asJson = false;
};

// The layers below a differential image, plain or packed.
class Below {
 public:
  explicit Below(const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
      kj::AutoCloseFd file = openMemory(path);
      if (isPacked(file.get(), path)) {
        packed_.push_back(std::make_unique<PackedFile>(packedFile(kj::mv(file), path)));
        contents_.push_back(std::make_unique<packed::PackedContent>(packed_.back()->image));
      } else {
        contents_.push_back(std::make_unique<image::PlainContent>(file.get()));
        plain_.push_back(kj::mv(file));
      }
      if (contents_.back()->bytes() != contents_.front()->bytes()) throw otherSize(path, paths.front());
    }
  }

  std::uint64_t bytes() const { return contents_.front()->bytes(); }
  std::uint64_t fingerprint() const { return identityOf(contents_).fingerprint; }

 private:
  CommandError otherSize(const std::string& path, const std::string& first) const {
    return {USAGE, path + " has " + std::to_string(contents_.back()->bytes()) + " bytes and " + first +
                       " has " + std::to_string(bytes()) + ": all layers of a snapshot are of one size"};
  }

  std::vector<kj::AutoCloseFd> plain_;
  std::vector<std::unique_ptr<PackedFile>> packed_;
  std::vector<std::unique_ptr<image::LayerContent>> contents_;
};

// The fingerprint of what a differential image lies over; empty for a full one. CommandError(USAGE) where it cannot lie
// over that.
std::optional<std::uint64_t> baseOf(const StackOptions& stack, int top, std::uint64_t bytes) {
  if (stack.over.empty()) return std::nullopt;
  const Below below(stack.over);
  if (below.bytes() != bytes)
    throw CommandError(
        USAGE, stack.top + " has " + std::to_string(bytes) + " bytes and " + stack.over.front() + " has " +
                   std::to_string(below.bytes()) +
                   ": all layers of a snapshot are of one size, that of the target's memory; is "
                   "it of another target, or cut?");
  if (const auto why = image::whyNotUpper(top, stack.top, image::Look::whole))
    throw CommandError(USAGE, stack.top + " can't be an upper layer: " + *why);
  return below.fingerprint();
}

std::vector<packed::DataRange> dataOf(int file, std::uint64_t bytes) {
  std::vector<packed::DataRange> data;
  image::ExtentWalk walk(file, 0, bytes);
  while (const auto extent = walk.next())
    if (!extent->hole) data.push_back({extent->offset, extent->size});
  return data;
}

packed::PackSummary packInto(image::NewFile& out, const Options& options, int in, std::uint64_t bytes,
                             std::optional<std::uint64_t> base) {
  const auto before = process::identityByServer(in);
  WorkProgress progress("packing " + options.stack.top, bytes);
  const packed::PackInput input{in, options.stack.top, bytes, dataOf(in, bytes)};
  const auto summary = packed::pack(input, out.fd(), options.output, {options.level, base},
                                    [&](std::uint64_t offset) { progress.reached(offset); });
  if (process::identityByServer(in) != before)
    throw CommandError(FAILED, options.stack.top +
                                   " has changed while it was read; nothing is written. Try again when "
                                   "nothing writes to it");
  out.publish();
  return summary;
}

void print(const Options& options, const packed::PackSummary& summary, std::optional<std::uint64_t> base) {
  if (options.asJson) {
    printf("%s\n", json{{"path", options.output},
                        {"bytes", summary.bytes},
                        {"packed_bytes", summary.fileBytes},
                        {"frames", summary.frames},
                        {"zero_bytes", summary.zero},
                        {"hole_bytes", summary.below},
                        {"level", options.level},
                        {"differential", base.has_value()},
                        {"base_fingerprint", base.has_value() ? json(fingerprintText(*base)) : json()}}
                       .dump(-1, ' ', true, json::error_handler_t::replace)
                       .c_str());
    return;
  }
  printf("%s: %s in %s\n", process::plainText(options.output).c_str(), humanBytes(summary.bytes).c_str(),
         humanBytes(summary.fileBytes).c_str());
}

int pack(const Options& options) {
  const kj::AutoCloseFd in = openMemory(options.stack.top);
  requirePlain(in.get(), options.stack.top);
  const std::uint64_t bytes = process::contentBytes(in.get()).value_or(0);
  const auto base = baseOf(options.stack, in.get(), bytes);
  image::NewFile out = outputFile(options.output, {in.get()}, options.force);
  const auto summary = packInto(out, options, in.get(), bytes, base);
  print(options, summary, base);
  return OK;
}

}  // namespace

void addPack(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("pack", "Compress a memory file so that each page can be found in it");
  command->description(
      "Compress a memory file in frames of 64 KiB, each with a checksum and found by a table: the zstd "
      "seekable "
      "format.\nAny zstd unpacks it (zstd -d). All CPUs are used. The file is there when it is complete, or "
      "not "
      "at all.\nWith --over it is packed as a differential snapshot: what is a hole in it stays one, and it "
      "knows "
      "its base.\n\n"
      "Examples:\n"
      "  faultline pack vm.mem vm.mem.zst\n"
      "  faultline pack diff.mem --over base.mem diff.mem.zst");
  command->add_option("IN", options->stack.top, "The memory file or block device")->required();
  addOver(*command, options->stack);
  command->add_option("OUT", options->output, "The file to write")->required();
  command
      ->add_option("--level", options->level,
                   "zstd's level, 1 to 22: higher ones are smaller, and take longer to pack")
      ->check(CLI::Range(packed::LEAST_LEVEL, packed::MOST_LEVEL))
      ->capture_default_str();
  command->add_flag("--force", options->force, "Replace OUT if it is there, in one step");
  command->add_flag("--json", options->asJson, "Print one JSON object");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return pack(*options); }; });
}

}  // namespace faultline::cli
