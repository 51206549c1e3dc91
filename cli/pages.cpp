// faultline pages: the states and owners of a restore's pages.

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
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
  std::string control = DEFAULT_CONTROL, name, png, svg;
  bool owners = false, asJson = false, map = false;
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

// All of it, whole or not at all.
void writeText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out)
    throw CommandError(USAGE, "--svg " + path + " cannot be written: " + std::strerror(errno) +
                                  "; give a file in a folder that is there and that you may write to");
}

// For a terminal, under which there is room for the legend.
void printMap(const PageDrawing& drawing) {
  winsize size{};
  const bool colours = isTerminal();
  const bool known =
      colours && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 8 && size.ws_row > 8;
  const std::uint32_t columns =
      known ? std::min<std::uint32_t>(size.ws_col - 1u, 2 * (size.ws_row - 4u)) : 64;
  fputs(drawing.text(columns, colours).c_str(), stdout);
  if (!colours) {
    printf(". missing, # faulted, o removed, - released; row by row\n");
    return;
  }
  for (const PageKind kind : {PageKind::missing, PageKind::faulted, PageKind::removed, PageKind::released}) {
    const Colour c = colourOf(kind);
    printf("\033[48;2;%d;%d;%dm  \033[0m %s  ", c.red, c.green, c.blue, nameOf(kind));
  }
  printf("\n");
}

void draw(Session& session, rpc::Restore::Client restore, const PagesOptions& options) {
  auto response = session.wait(restore.infoRequest().send());
  std::uint64_t bytes = 0;
  for (auto region : response.getInfo().getRegions()) bytes += region.getSize();
  PageDrawing drawing(response.getInfo().getPages());
  takeStates(session, restore, [&drawing](const StateRun& run) { drawing.add(run); });
  if (!options.map) takeOwners(session, restore, [&drawing](const OwnerRange& run) { drawing.add(run); });
  if (options.map) printMap(drawing);
  if (!options.svg.empty()) writeText(options.svg, drawing.svg(options.name, bytes));
  if (options.png.empty()) return;
  drawing.write(options.png);
  printLegend(drawing, options.png);
}

int pages(const PagesOptions& options) {
  Interrupts::capture();
  Session session(options.control);
  auto restore = session.restore(options.name);
  if (!options.png.empty() || !options.svg.empty() || options.map) {
    draw(session, restore, options);
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
      "  faultline pages vm1 --svg vm1.svg      its working set, and who is asked for it, at a glance\n"
      "  faultline pages vm1 --map              the same in a terminal");
  addControl(*command, options->control);
  command->add_option("RESTORE", options->name, "The restore's name; `faultline status` lists them")
      ->required();
  command->add_flag("--owners", options->owners,
                    "The number of the shard that is asked for them, instead of the state");
  CLI::Option* svg = command->add_option(
      "--svg", options->svg, "Draw them there: states left, owners right, with axes and a legend");
  CLI::Option* png =
      command->add_option("--png", options->png, "Draw the two squares there alone, for programs");
  CLI::Option* map = command->add_flag("--map", options->map, "Draw the states in the terminal");
  command->add_flag("--json", options->asJson, "Print one JSON array")
      ->excludes(png)
      ->excludes(svg)
      ->excludes(map);
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return pages(*options); }; });
}

}  // namespace faultline::cli
