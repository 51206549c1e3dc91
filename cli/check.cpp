// `faultline check`: whether this machine can run a service, and what it would go without.

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/preflight.h"
#include "cli/table.h"
#include "process/content_size.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct CheckOptions {
  Plan plan;
  std::string memory;
  std::vector<std::string> over;
  bool sizeGiven = false, asJson = false;
};

void printTable(const std::vector<Finding>& findings) {
  using Column = Table::Column;
  Table table;
  table.noHeadings();
  for (const Column column : {Column::left, Column::left, Column::wrapped}) table.column("", column);
  for (const Finding& finding : findings) {
    table.line();
    table.cell(nameOf(finding.state));
    table.cell(finding.what);
    table.cell(finding.text);
  }
  table.print();
}

int check(CheckOptions options) {
  if (!options.memory.empty()) options.plan.layers = pathsOf(options.memory, options.over);
  if (!options.plan.layers.empty() && !options.sizeGiven) {
    try {
      options.plan.bytes =
          process::contentBytes(openMemory(options.memory).get()).value_or(options.plan.bytes);
    } catch (const CommandError&) {  // what is wrong with it is a finding
    }
  }
  const std::vector<Finding> findings = preflight(options.plan);
  if (options.asJson) {
    auto out = json::array();
    for (const Finding& finding : findings)
      out.push_back({{"what", finding.what}, {"state", nameOf(finding.state)}, {"text", finding.text}});
    printf("%s\n", out.dump(2, ' ', true, json::error_handler_t::replace).c_str());
  } else {
    printTable(findings);
  }
  const bool missing = std::any_of(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.state == Finding::State::missing;
  });
  return missing ? ENVIRONMENT : OK;
}

}  // namespace

void addCheck(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<CheckOptions>();
  CLI::App* command = app.add_subcommand("check", "Whether this machine can run a service");
  command->description(
      "Try, one by one, what a service needs of this machine, for this user: ok; degraded, and what is lost; "
      "or "
      "missing,\nand the way out (exit code 3). Changes nothing.\n\n"
      "Limits are those of this shell, and of the systemd unit where there is one.\n\n"
      "Examples:\n"
      "  faultline check\n"
      "  faultline check --restores 200 --size 8G\n"
      "  faultline check --memory vm.diff --over base.mem\n"
      "  faultline check --json | jq '.[] | select(.state != \"ok\")'");
  command
      ->add_option("--restores", options->plan.restores,
                   "Restores at the same time, each with a socket of its own")
      ->check(CLI::Range(1u, 100'000u))
      ->capture_default_str();
  CLI::Option* size = command
                          ->add_option("--size", options->plan.bytes,
                                       "Memory of each, as in 512M or 8G; default: that of --memory, else 1G")
                          ->transform(CLI::AsSizeValue(false));
  command->add_option("--shards", options->plan.shards, "Shard processes")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  command->add_option("--unit", options->plan.unit, "The systemd unit that is to run the service")
      ->capture_default_str();
  command->add_option("--memory", options->memory, "Also look at this memory file");
  command->add_option(
      "--over", options->over,
      "The snapshot that the --memory, a differential one, lies over (repeatable, the newest first)");
  command->add_flag("--json", options->asJson, "Print one JSON array");
  command->footer(EXIT_CODES);
  command->callback([options, size, &chosen] {
    options->sizeGiven = size->count() > 0;
    chosen = [options] { return check(*options); };
  });
}

}  // namespace faultline::cli
