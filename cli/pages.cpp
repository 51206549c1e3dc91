// faultline pages: the states and owners of a restore's pages.

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/page_map.h"
#include "cli/restore_options.h"
#include "cli/session.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct PagesOptions {
  std::string control = DEFAULT_CONTROL, name, png;
  bool owners = false, asJson = false;
};

const char* nameOf(PageKind state) {
  switch (state) {
    case PageKind::faulted:
      return "faulted";
    case PageKind::removed:
      return "removed";
    case PageKind::released:
      return "released";
    default:
      return "missing";
  }
}

// Prints a line for each run, or an object of an array, as they come.
class Printer {
 public:
  Printer(bool asJson, const char* key) : asJson_(asJson), key_(key) {
    if (asJson_) printf("[");
  }
  void print(std::uint64_t first, std::uint64_t count, const json& what) {
    if (asJson_)
      printf("%s%s", printed_ ? "," : "",
             json({{"first", first}, {"count", count}, {key_, what}}).dump().c_str());
    else
      printf("%12llu %12llu  %s\n", static_cast<unsigned long long>(first),
             static_cast<unsigned long long>(count),
             what.is_string() ? what.get<std::string>().c_str() : what.dump().c_str());
    printed_ = true;
  }
  void end() {
    if (asJson_) printf("]\n");
  }

 private:
  const bool asJson_;
  const char* const key_;
  bool printed_ = false;
};

void printLegend(const PageDrawing& drawing, const std::string& path) {
  printf("%s: %u x %u, a cell is %llu pages, row by row\n", path.c_str(), drawing.width(), drawing.height(),
         static_cast<unsigned long long>(drawing.pagesPerCell()));
  printf("  left   grey missing, blue faulted, orange removed, green released\n  right  by owner:");
  for (std::uint32_t shard = 0; shard < drawing.shards(); shard++) {
    const Colour c = colourOfShard(shard);
    if (isTerminal())
      printf(" \033[48;2;%d;%d;%dm  \033[0m shard %u", c.red, c.green, c.blue, shard);
    else
      printf(" shard %u #%02x%02x%02x", shard, c.red, c.green, c.blue);
  }
  printf("\n");
}

void draw(Session& session, rpc::Restore::Client restore, const std::string& path) {
  PageDrawing drawing(pagesOf(session, restore));
  takeStates(session, restore, [&drawing](const StateRun& run) { drawing.add(run); });
  takeOwners(session, restore, [&drawing](const OwnerRange& run) { drawing.add(run); });
  drawing.write(path);
  printLegend(drawing, path);
}

int pages(const PagesOptions& options) {
  Interrupts::capture();
  Session session(options.control);
  auto restore = session.restore(options.name);
  if (!options.png.empty()) {
    draw(session, restore, options.png);
    return OK;
  }
  Printer printer(options.asJson, options.owners ? "shard" : "state");
  if (options.owners)
    takeOwners(session, restore,
               [&printer](const OwnerRange& run) { printer.print(run.first, run.count, run.shard); });
  else
    takeStates(session, restore,
               [&printer](const StateRun& run) { printer.print(run.first, run.count, nameOf(run.state)); });
  printer.end();
  return OK;
}

}  // namespace

void addPages(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<PagesOptions>();
  CLI::App* command = app.add_subcommand("pages", "Print the states of a restore's pages, or draw them");
  command->description(
      "Print the states of a restore's pages, one line a run: first page, pages, state (missing, faulted, "
      "removed or released).\n\n"
      "Examples:\n"
      "  faultline pages vm1 | awk '$3 == \"removed\" {n += $2} END {print n}'\n"
      "  faultline pages vm1 --png vm1.png      its working set, and who is asked for it, at a glance");
  addControl(*command, options->control);
  command->add_option("RESTORE", options->name, "The restore's name; `faultline status` lists them")
      ->required();
  command->add_flag("--owners", options->owners,
                    "The number of the shard that is asked for them, instead of the state");
  CLI::Option* png = command->add_option("--png", options->png, "Draw them there: states left, owners right");
  command->add_flag("--json", options->asJson, "Print one JSON array")->excludes(png);
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return pages(*options); }; });
}

}  // namespace faultline::cli
