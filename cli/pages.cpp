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

// Prints a line for each run, or an object of an array.
template <typename Run, typename Value>
void print(const std::vector<Run>& runs, bool asJson, const char* key, Value value) {
  auto out = json::array();
  for (const Run& run : runs) {
    const json what = value(run);
    if (asJson)
      out.push_back({{"first", run.first}, {"count", run.count}, {key, what}});
    else
      printf("%12llu %12llu  %s\n", static_cast<unsigned long long>(run.first),
             static_cast<unsigned long long>(run.count),
             what.is_string() ? what.get<std::string>().c_str() : what.dump().c_str());
  }
  if (asJson) printf("%s\n", out.dump().c_str());
}

void printLegend(const PageDrawing& drawing, const PageMap& map, const std::string& path) {
  printf("%s: %u x %u, a cell is %llu pages, row by row\n", path.c_str(), drawing.width(), drawing.height(),
         static_cast<unsigned long long>(drawing.pagesPerCell));
  printf("  left   grey missing, blue faulted, orange removed, green released\n  right  by owner:");
  std::uint32_t shards = 0;
  for (const OwnerRange& run : map.owners) shards = std::max(shards, run.shard + 1);
  for (std::uint32_t shard = 0; shard < shards; shard++) {
    const Colour c = colourOfShard(shard);
    if (isTerminal())
      printf(" \033[48;2;%d;%d;%dm  \033[0m shard %u", c.red, c.green, c.blue, shard);
    else
      printf(" shard %u #%02x%02x%02x", shard, c.red, c.green, c.blue);
  }
  printf("\n");
}

int pages(const PagesOptions& options) {
  Interrupts::capture();
  Session session(options.control);
  const PageMap map = PageMap::of(session, session.restore(options.name));
  if (!options.png.empty()) {
    const PageDrawing drawing = PageDrawing::of(map);
    drawing.write(options.png);
    printLegend(drawing, map, options.png);
  } else if (options.owners) {
    print(map.owners, options.asJson, "shard", [](const OwnerRange& run) { return json(run.shard); });
  } else {
    print(map.states, options.asJson, "state", [](const StateRun& run) { return json(nameOf(run.state)); });
  }
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
