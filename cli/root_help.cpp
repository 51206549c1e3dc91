#include "cli/root_help.h"

#include <memory>
#include <sstream>

namespace faultline::cli {

namespace {

struct Group {
  const char* commands;
  const char* what;
};
constexpr Group GROUPS[] = {
    {"check, demo", "Begin here: can this machine do it, and a trial with its own files"},
    {"restore", "Serve one target, and end when it has everything"},
    {"run", "Serve a memory file for as long as a command lives"},
    {"serve", "Run the page server as a daemon"},
    {"status, wait, events, pages", "What is being served, how far and how fast"},
    {"metrics, http", "Figures for Prometheus; control as JSON over HTTP"},
    {"prefault, pause, resume, detach, reshard", "Steer a restore"},
    {"listen, unlisten, listeners, reload", "Sockets of a service at run time; its configuration anew"},
    {"drain, shutdown, upgrade", "End a service, or have another build take over"},
    {"info, verify, flatten, working-set", "Files of snapshots"},
    {"pack, unpack", "Compressed files of snapshots"},
    {"completion", "Completions for bash, zsh and fish"},
};

class RootHelp final : public CLI::Formatter {
  std::string make_help(const CLI::App* app, std::string, CLI::AppFormatMode) const override {
    std::ostringstream text;
    text << "faultline brings a snapshot's memory back lazily, in parallel, through userfaultfd.\n\n"
         << "Usage: faultline COMMAND [OPTIONS]; faultline COMMAND --help says more\n\nCommands:\n";
    for (const Group& group : GROUPS) CLI::detail::format_help(text, group.commands, group.what, 44);
    text << make_groups(app, CLI::AppFormatMode::Normal) << "\n" << app->get_footer() << "\n";
    return text.str();
  }
};

}  // namespace

void helpInGroups(CLI::App& app) {
  app.formatter(std::make_shared<RootHelp>());
}

}  // namespace faultline::cli
