// `faultline info`: what files of snapshots are, and as what they can be served.

#include <libsmartcols/libsmartcols.h>
#include <sys/stat.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/memory_file.h"
#include "cli/snapshot_identity.h"
#include "cli/work_progress.h"
#include "image/extent_walk.h"
#include "image/file_system.h"
#include "image/read_data.h"
#include "image/upper_layer.h"
#include "process/content_size.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct InfoOptions {
  std::vector<std::string> images;
  bool zeros = false, asJson = false;
};

struct Facts {
  std::string path, kind, fileSystem, fingerprint;
  std::uint64_t bytes = 0, data = 0, extents = 0;  // extents: of data
  std::optional<std::uint64_t> zeros;              // bytes of data, in whole pages of 4096 bytes
  std::optional<std::string> whyNotUpper;
};

std::uint64_t zerosIn(const image::StackFile& layer, std::uint64_t bytes) {
  constexpr std::size_t PAGE = 4096;
  WorkProgress progress("reading " + layer.name, bytes);
  std::uint64_t zeros = 0;
  image::ExtentWalk walk(layer.file, 0, bytes);
  while (const auto extent = walk.next()) {
    if (extent->hole) continue;
    image::readData(layer, *extent, [&](std::uint64_t offset, std::span<const std::byte> piece) {
      progress.reached(offset);
      for (; piece.size() >= PAGE; piece = piece.subspan(PAGE))
        if (image::isZero(piece.first(PAGE))) zeros += PAGE;
    });
  }
  return zeros;
}

Facts factsOf(const std::string& path, bool zeros) {
  const kj::AutoCloseFd file = openMemory(path);
  Facts facts;
  facts.path = path;
  facts.bytes = process::contentBytes(file.get()).value_or(0);
  struct stat status {};
  fstat(file.get(), &status);
  const bool device = S_ISBLK(status.st_mode);
  facts.kind = device ? "block device" : "raw file";
  if (!device) facts.fileSystem = image::fileSystemOf(file.get());
  facts.fingerprint = fingerprintText(identityOf(file.get()));
  image::ExtentWalk walk(file.get(), 0, facts.bytes);
  while (const auto extent = walk.next()) {
    if (extent->hole) continue;
    facts.data += extent->size;
    facts.extents++;
  }
  if (zeros) facts.zeros = zerosIn({file.get(), path, path}, facts.bytes);
  facts.whyNotUpper = image::whyNotUpper(file.get(), path, image::Look::whole);
  return facts;
}

json toJson(const Facts& facts) {
  return {{"path", facts.path},
          {"kind", facts.kind},
          {"bytes", facts.bytes},
          {"data_bytes", facts.data},
          {"hole_bytes", facts.bytes - facts.data},
          {"zero_bytes", facts.zeros.has_value() ? json(*facts.zeros) : json()},
          {"extents", facts.extents},
          {"fingerprint", facts.fingerprint},
          {"file_system", facts.fileSystem},
          {"lowest_layer", true},
          {"upper_layer", !facts.whyNotUpper.has_value()},
          {"why_no_upper_layer", facts.whyNotUpper.has_value() ? json(*facts.whyNotUpper) : json()}};
}

void printTable(const std::vector<Facts>& all, bool zeros) {
  const std::unique_ptr<libscols_table, void (*)(libscols_table*)> table(scols_new_table(),
                                                                         scols_unref_table);
  if (table == nullptr) throw std::bad_alloc();
  const auto column = [&](const char* name, int flags) {
    scols_table_new_column(table.get(), name, 0, flags);
  };
  column("IMAGE", 0);
  column("KIND", 0);
  for (const char* name : {"SIZE", "DATA", "HOLES"}) column(name, SCOLS_FL_RIGHT);
  if (zeros) column("ZEROS", SCOLS_FL_RIGHT);
  column("EXTENTS", SCOLS_FL_RIGHT);
  for (const char* name : {"FILE SYSTEM", "FINGERPRINT", "SERVED AS"}) column(name, 0);
  for (const Facts& facts : all) {
    libscols_line* line = scols_table_new_line(table.get(), nullptr);
    std::size_t at = 0;
    const auto cell = [&](const std::string& text) {
      if (line == nullptr || scols_line_set_data(line, at++, process::plainText(text).c_str()) != 0)
        throw std::bad_alloc();
    };
    cell(facts.path);
    cell(facts.kind);
    cell(humanBytes(facts.bytes));
    cell(humanBytes(facts.data));
    cell(humanBytes(facts.bytes - facts.data));
    if (zeros) cell(humanBytes(facts.zeros.value_or(0)));
    cell(std::to_string(facts.extents));
    cell(facts.fileSystem);
    cell(facts.fingerprint);
    cell(facts.whyNotUpper.has_value() ? "lowest layer" : "any layer");
  }
  scols_print_table(table.get());
  for (const Facts& facts : all)
    if (facts.whyNotUpper.has_value())
      printf("%s\n",
             process::plainText(facts.path + " can't be an upper layer: " + *facts.whyNotUpper).c_str());
}

int info(const InfoOptions& options) {
  std::vector<Facts> all;
  int code = OK;
  for (const std::string& path : options.images) {
    // One that cannot be looked at does not hide the others.
    const int one = guarded([&] {
      all.push_back(factsOf(path, options.zeros));
      return OK;
    });
    if (code == OK) code = one;
  }
  if (options.asJson) {
    auto out = json::array();
    for (const Facts& facts : all) out.push_back(toJson(facts));
    printf("%s\n", out.dump(-1, ' ', true, json::error_handler_t::replace).c_str());
  } else if (!all.empty()) {
    printTable(all, options.zeros);
  }
  return code;
}

}  // namespace

void addInfo(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* command =
      app.add_subcommand("info", "Print what memory files are, and as what they can be served");
  command->description(
      "Print what memory files of snapshots are: size, data, holes, the file system, and whether each can be "
      "an "
      "upper layer\n(a differential snapshot over another one) or only the lowest. The fingerprint is of "
      "samples: it "
      "is what a recorded\nworking set knows its snapshot by.\n\n"
      "Examples:\n"
      "  faultline info base.mem diff.mem\n"
      "  faultline info --json --zeros vm.mem | jq '.[0].zero_bytes'");
  command->add_option("IMAGE", options->images, "Memory files, or block devices")->required();
  command->add_flag("--zeros", options->zeros,
                    "Also how many bytes of the data are pages of zeros: reads all of it");
  command->add_flag("--json", options->asJson, "Print one JSON array");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return info(*options); }; });
}

}  // namespace faultline::cli
