// `faultline info`: what files of snapshots are, and as what they can be served.

#include <sys/stat.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/memory_file.h"
#include "cli/packed_file.h"
#include "cli/snapshot_identity.h"
#include "cli/table.h"
#include "cli/work_progress.h"
#include "image/extent_walk.h"
#include "image/file_system.h"
#include "image/read_data.h"
#include "image/upper_layer.h"
#include "packed/packed_content.h"
#include "process/content_size.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct InfoOptions {
  std::vector<std::string> images;
  bool zeros = false, asJson = false;
};

// Facts of a packed image.
struct PackedFacts {
  std::uint64_t bytes = 0, frames = 0, largestFrame = 0;  // bytes: of the file
  bool described = false;                                 // by faultline
  std::optional<std::uint64_t> base;                      // fingerprint of the base of a differential one
};

struct Facts {
  std::string path, kind, fileSystem, fingerprint;
  std::uint64_t bytes = 0, data = 0, extents = 0;  // extents: of data
  std::optional<std::uint64_t> zeros;              // bytes of data, in whole pages of 4096 bytes
  std::optional<std::string> whyNotUpper;
  std::optional<PackedFacts> packed;
};

constexpr std::size_t PAGE = 4096;

std::uint64_t zeroPages(std::span<const std::byte> bytes) {
  std::uint64_t zeros = 0;
  for (; bytes.size() >= PAGE; bytes = bytes.subspan(PAGE))
    if (image::isZero(bytes.first(PAGE))) zeros += PAGE;
  return zeros;
}

std::uint64_t zerosIn(const image::StackFile& layer, std::uint64_t bytes) {
  WorkProgress progress("reading " + layer.name, bytes);
  std::uint64_t zeros = 0;
  image::ExtentWalk walk(layer.file, 0, bytes);
  while (const auto extent = walk.next()) {
    if (extent->hole) continue;
    image::readData(layer, *extent, [&](std::uint64_t offset, std::span<const std::byte> piece) {
      progress.reached(offset);
      zeros += zeroPages(piece);
    });
  }
  return zeros;
}

// Zeros among the pages that are the image's own.
std::uint64_t zerosIn(const packed::Image& image) {
  WorkProgress progress("reading " + image.name(), image.bytes());
  packed::FrameReader reader;
  std::vector<std::byte> content(image.table().largest());
  std::uint64_t zeros = 0;
  for (std::size_t index = 0; index < image.table().frames(); index++) {
    const packed::Frame frame = image.table().frame(index);
    const std::span<std::byte> bytes = std::span(content).first(frame.bytes);
    image.read(index, reader, bytes);
    image.map().forEach(frame.offset, frame.end(), [&](const packed::Extent& extent) {
      if (extent.kind != image.hole())
        zeros += zeroPages(bytes.subspan(extent.offset - frame.offset, extent.size));
    });
    progress.reached(frame.end());
  }
  return zeros;
}

Facts factsOf(const PackedFile& file, const std::string& path, bool zeros) {
  const packed::Image& image = file.image;
  Facts facts;
  facts.path = path;
  facts.kind = image.base().has_value() ? "packed diff" : "packed image";
  facts.bytes = image.bytes();
  facts.fileSystem = image::fileSystemOf(file.file.get());
  packed::PackedContent content(image);
  facts.fingerprint = fingerprintText(identityOf(content));
  bool afterHole = true;
  image.map().forEach(0, image.bytes(), [&](const packed::Extent& extent) {
    const bool hole = extent.kind == image.hole();
    if (!hole) facts.data += extent.size;
    if (!hole && afterHole) facts.extents++;
    afterHole = hole;
  });
  if (zeros) facts.zeros = zerosIn(image);
  facts.packed = {image.fileBytes(), image.table().frames(), image.table().largest(), image.isDescribed(),
                  image.base()};
  if (!image.base().has_value()) facts.whyNotUpper = "it is a full image, and hides what is below it";
  return facts;
}

Facts factsOf(const std::string& path, bool zeros) {
  kj::AutoCloseFd file = openMemory(path);
  if (isPacked(file.get(), path)) return factsOf(packedFile(kj::mv(file), path), path, zeros);
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

json toJson(const PackedFacts& packed) {
  return {{"bytes", packed.bytes},
          {"frames", packed.frames},
          {"largest_frame_bytes", packed.largestFrame},
          {"by_faultline", packed.described},
          {"differential", packed.base.has_value()},
          {"base_fingerprint", packed.base.has_value() ? json(fingerprintText(*packed.base)) : json()}};
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
          {"packed", facts.packed.has_value() ? toJson(*facts.packed) : json()},
          {"lowest_layer", !facts.packed.has_value() || !facts.packed->base.has_value()},
          {"upper_layer", !facts.whyNotUpper.has_value()},
          {"why_no_upper_layer", facts.whyNotUpper.has_value() ? json(*facts.whyNotUpper) : json()}};
}

const char* servedAs(const Facts& facts) {
  if (facts.packed.has_value()) return facts.packed->base.has_value() ? "upper layer" : "lowest layer";
  return facts.whyNotUpper.has_value() ? "lowest layer" : "any layer";
}

// Prints what the table has no column for.
void printNotes(const Facts& facts) {
  std::string note;
  if (facts.packed.has_value()) {
    const PackedFacts& packed = *facts.packed;
    note = facts.path + " is packed: " + humanBytes(packed.bytes) + ", " + std::to_string(packed.frames) +
           " frames of at most " + humanBytes(packed.largestFrame) +
           (packed.described ? "" : ", by another program than faultline");
    if (packed.base.has_value()) note += "; it lies over " + fingerprintText(*packed.base);
  } else if (facts.whyNotUpper.has_value()) {
    note = facts.path + " can't be an upper layer: " + *facts.whyNotUpper;
  }
  if (!note.empty()) printf("%s\n", process::plainText(note).c_str());
}

void printTable(const std::vector<Facts>& all, bool zeros) {
  using Column = Table::Column;
  Table table;
  table.column("IMAGE");
  table.column("KIND");
  for (const char* name : {"SIZE", "DATA", "HOLES"}) table.column(name, Column::right);
  if (zeros) table.column("ZEROS", Column::right);
  table.column("EXTENTS", Column::right);
  for (const char* name : {"FILE SYSTEM", "FINGERPRINT", "SERVED AS"}) table.column(name);
  for (const Facts& facts : all) {
    table.line();
    table.cell(facts.path);
    table.cell(facts.kind);
    table.cell(humanBytes(facts.bytes));
    table.cell(humanBytes(facts.data));
    table.cell(humanBytes(facts.bytes - facts.data));
    if (zeros) table.cell(humanBytes(facts.zeros.value_or(0)));
    table.cell(std::to_string(facts.extents));
    table.cell(facts.fileSystem);
    table.cell(facts.fingerprint);
    table.cell(servedAs(facts));
  }
  table.print();
  for (const Facts& facts : all) printNotes(facts);
}

int info(const InfoOptions& options) {
  std::vector<Facts> all;
  int code = OK;
  for (const std::string& path : options.images) {
    // A file that cannot be looked at does not hide the others.
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
