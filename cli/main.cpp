// faultline: the command-line tool.

#include <algorithm>
#include <iostream>
#include <sstream>

#include "cli/commands.h"
#include "cli/commit.h"
#include "cli/did_you_mean.h"
#include "cli/errors.h"
#include "cli/root_help.h"
#include "process/build.h"
#include "process/plain_text.h"
#include "process/process.h"

namespace {

std::vector<std::string> commandsOf(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return names;
}

// The first option that the command which was given does not have, and what was perhaps meant. Empty: there is none.
std::string unknownOption(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) {
    for (const std::string& argument : command->remaining()) {
      if (argument.rfind("--", 0) != 0) continue;
      const std::string name = argument.substr(0, argument.find('='));
      std::vector<std::string> known;
      for (const CLI::Option* option : command->get_options())
        for (const std::string& each : option->get_lnames()) known.push_back("--" + each);
      return command->get_name() + " has no option " + name + faultline::cli::didYouMean(name, known) +
             "\n`faultline " + command->get_name() + " --help` lists those that there are\n";
    }
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  using namespace faultline::cli;
  faultline::process::passNoFdsOn();
  faultline::process::keepMemoryPrivate();
  CLI::App app;
  app.require_subcommand(1);
  app.set_version_flag("--version",
                       std::string(faultline::process::version()) + " (commit " + commit() + ")");
  app.footer(EXIT_CODES);
  Result chosen;
  addServe(app, chosen);
  addRestore(app, chosen);
  addRun(app, chosen);
  addStatus(app, chosen);
  addPages(app, chosen);
  addMetrics(app, chosen);
  addHttp(app, chosen);
  addManage(app, chosen);
  addWait(app, chosen);
  addUpgrade(app, chosen);
  addWorkingSet(app, chosen);
  addInfo(app, chosen);
  addVerify(app, chosen);
  addFlatten(app, chosen);
  addPack(app, chosen);
  addUnpack(app, chosen);
  addCheck(app, chosen);
  addListeners(app, chosen);
  addWatchService(app, chosen);
  addDemo(app, chosen);
  addCompletion(app, chosen);
  helpInGroups(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, err;
    const int code = app.exit(error, out, err) == 0 ? OK : USAGE;
    const auto commands = commandsOf(app);
    if (code == USAGE && argc > 1 && argv[1][0] != '-' &&
        std::find(commands.begin(), commands.end(), argv[1]) == commands.end())
      err.str("there is no command " + std::string(argv[1]) + didYouMean(argv[1], commands) +
              "; `faultline --help` lists those that there are\n");
    else if (const std::string unknown = code == USAGE ? unknownOption(app) : ""; !unknown.empty())
      err.str(unknown);
    std::cout << faultline::process::plainText(out.str(), faultline::process::Lines::keep);
    std::cerr << faultline::process::plainText(err.str(), faultline::process::Lines::keep);
    if (code == USAGE) chosen = serveWhatIsKept({argv + 1, argv + argc}, error.what());
    if (code == OK || chosen == nullptr) return code;
  }
  return guarded(chosen);
}
