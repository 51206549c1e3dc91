// faultline: the command-line tool.

#include <algorithm>
#include <iostream>
#include <sstream>

#include "cli/commands.h"
#include "cli/errors.h"
#include "process/build.h"
#include "process/plain_text.h"
#include "process/process.h"

namespace {

bool hasCommand(const CLI::App& app, const std::string& name) {
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  return std::any_of(commands.begin(), commands.end(),
                     [&](const auto* each) { return each->get_name() == name; });
}

}  // namespace

int main(int argc, char** argv) {
  using namespace faultline::cli;
  faultline::process::passNoFdsOn();
  faultline::process::keepMemoryPrivate();
  CLI::App app{
      "faultline brings a snapshot's memory back lazily, in parallel, through userfaultfd. It survives the "
      "death of\n"
      "its coordinator and of its shards; as a systemd service, the death of any of its processes.\n\n"
      "Begin with: faultline demo\n"
      "Restore one VM: faultline restore --memory vm.mem --socket /tmp/vm.sock\n"
      "Run a daemon:   faultline serve, then faultline status"};
  app.require_subcommand(1);
  app.set_version_flag("--version", faultline::process::version());
  app.footer(EXIT_CODES);
  Result chosen;
  addServe(app, chosen);
  addRestore(app, chosen);
  addStatus(app, chosen);
  addPages(app, chosen);
  addMetrics(app, chosen);
  addManage(app, chosen);
  addUpgrade(app, chosen);
  addWorkingSet(app, chosen);
  addInfo(app, chosen);
  addVerify(app, chosen);
  addFlatten(app, chosen);
  addPack(app, chosen);
  addUnpack(app, chosen);
  addDemo(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, err;
    const int code = app.exit(error, out, err) == 0 ? OK : USAGE;
    if (code == USAGE && argc > 1 && argv[1][0] != '-' && !hasCommand(app, argv[1]))
      err.str("there is no command " + std::string(argv[1]) +
              "; `faultline --help` lists those that there are\n");
    std::cout << faultline::process::plainText(out.str(), faultline::process::Lines::keep);
    std::cerr << faultline::process::plainText(err.str(), faultline::process::Lines::keep);
    if (code == USAGE) chosen = serveWhatIsKept({argv + 1, argv + argc}, error.what());
    if (code == OK || chosen == nullptr) return code;
  }
  return guarded(chosen);
}
