// The commands, each in a file of its name. A command adds itself to `app` and, where it is the one that was
// given, puts its action into `chosen`.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace faultline::cli {

using Result = std::function<int()>;
void addServe(CLI::App& app, Result& chosen);
// `arguments`: of the command line, the command first, which could not be parsed (`refused`: why). Serves all
// that is kept, as it is, where restores are among it: a mistake in an option must not have them wait. Null:
// they are not.
Result serveWhatIsKept(const std::vector<std::string>& arguments, const std::string& refused);
void addRestore(CLI::App& app, Result& chosen);
void addRun(CLI::App& app, Result& chosen);
void addStatus(CLI::App& app, Result& chosen);
void addMetrics(CLI::App& app, Result& chosen);
void addHttp(CLI::App& app, Result& chosen);
void addPages(CLI::App& app, Result& chosen);
void addManage(CLI::App& app, Result& chosen);
void addWorkingSet(CLI::App& app, Result& chosen);
void addDemo(CLI::App& app, Result& chosen);
void addUpgrade(CLI::App& app, Result& chosen);
void addInfo(CLI::App& app, Result& chosen);
void addVerify(CLI::App& app, Result& chosen);
void addFlatten(CLI::App& app, Result& chosen);
void addPack(CLI::App& app, Result& chosen);
void addUnpack(CLI::App& app, Result& chosen);
void addWait(CLI::App& app, Result& chosen);
void addCompletion(CLI::App& app, Result& chosen);
void addCheck(CLI::App& app, Result& chosen);
void addListeners(CLI::App& app, Result& chosen);
void addWatchService(CLI::App& app, Result& chosen);

}  // namespace faultline::cli
