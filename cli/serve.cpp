#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include "cli/commands.h"
#include "cli/configuration.h"
#include "cli/errors.h"
#include "cli/policy_options.h"
#include "cli/restore_options.h"
#include "cli/served_listeners.h"
#include "cli/service_options.h"
#include "cli/socket_file.h"
#include "process/close_errors.h"
#include "process/kept_name.h"
#include "process/log_about.h"
#include "supervisor/supervisor.h"

namespace faultline::cli {

using process::KeptName;

namespace {

struct ServeOptions {
  ServiceOptions service;
  PolicyOptions policy;
  std::string control = DEFAULT_CONTROL;
  std::vector<std::string> sockets, names, workingSets;
  std::vector<std::vector<std::string>> memories;  // of each socket, the layers, the top one first
  bool overNothing = false;                        // an --over came before any --memory
  bool anyUser = false, keepRefused = false, checkOnly = false;
  std::string config;                          // the configuration's path; empty: none is used
  std::optional<Configuration> configuration;  // as it was read
  std::string misconfigured;                   // why it cannot be
  std::vector<std::string> wonByCommandLine;   // settings of it that an option overrules, for people
  std::string refused;  // why these are not the options that were given: what is kept is served, and no more

  std::string name(std::size_t i) const { return i < names.size() ? names[i] : "vm" + std::to_string(i + 1); }
};

// Before anything is made. The parser has checked each option by itself.
void check(const ServeOptions& options) {
  if (options.sockets.size() != options.memories.size())
    throw CommandError(USAGE, "--socket and --memory come in pairs, but there are " +
                                  std::to_string(options.sockets.size()) + " sockets and " +
                                  std::to_string(options.memories.size()) + " memory files");
  if (options.overNothing)
    throw CommandError(USAGE, "--over names what lies below the --memory before it, and none is before it");
  if (options.names.size() > options.sockets.size())
    throw CommandError(USAGE, "--name names the restores of the --socket at the same place, but there are " +
                                  std::to_string(options.names.size()) + " names and " +
                                  std::to_string(options.sockets.size()) + " sockets");
  if (options.workingSets.size() > options.sockets.size())
    throw CommandError(USAGE, "--working-set is for the --socket at the same place, but there are " +
                                  std::to_string(options.workingSets.size()) + " working sets and " +
                                  std::to_string(options.sockets.size()) + " sockets");
  std::set<std::string> names;
  for (std::size_t i = 0; i < options.sockets.size(); i++)
    if (!names.insert(options.name(i)).second)
      throw CommandError(USAGE, "--name " + options.name(i) + " is given twice: choose another");
}

std::vector<ServedListener> listenersOf(const ServeOptions& options) {
  std::vector<ServedListener> listeners;
  for (std::size_t i = 0; i < options.sockets.size(); i++) {
    ServedListener& listener = listeners.emplace_back();
    listener.name = options.name(i);
    listener.socket = options.sockets[i];
    listener.layers = options.memories[i];
    if (i < options.workingSets.size()) listener.workingSet = options.workingSets[i];
    listener.policy = options.policy;
    listener.anyUser = options.anyUser;
    listener.keepRefused = options.keepRefused;
  }
  return listeners;
}

// /run/faultline is ours to make; any other directory is the operator's.
void makeControlDirectory(const std::string& control) {
  std::error_code ignored;  // the socket cannot be made then, which says why
  if (control == DEFAULT_CONTROL)
    std::filesystem::create_directory(std::filesystem::path(control).parent_path(), ignored);
}

// Options that say what cannot be, while restores are served: they are served on as they are.
void makeListeners(const ServeOptions& options, ServedListeners& served, bool tolerant) {
  try {
    check(options);
  } catch (const CommandError& error) {
    if (!tolerant) throw;
    spdlog::error("the listeners stay as they were, the options are refused: {}", error.what());
    return;
  }
  served.apply(process::Origin::commandLine, listenersOf(options));
}

// A configuration that cannot be read changes nothing while restores are served.
void makeConfiguredListeners(const ServeOptions& options, ServedListeners& served, bool tolerant) {
  // Sockets of a configuration that is not used any more are closed.
  if (options.config.empty()) return served.apply(process::Origin::configuration, {});
  if (!options.misconfigured.empty()) {
    if (!tolerant) throw CommandError(USAGE, options.misconfigured);
    spdlog::error("the listeners of the configuration stay as they were: {}", options.misconfigured);
    return;
  }
  if (!options.configuration->service.has_value())
    spdlog::info("there is no {}: nothing is set there", options.config);
  for (const std::string& kept : options.wonByCommandLine) spdlog::warn("{}", kept);
  served.apply(process::Origin::configuration, options.configuration->listeners);
}

// Reads the configuration and gives the service its settings, but for those that the command line has.
void takeConfiguration(ServeOptions& options, CLI::App& command) {
  try {
    options.configuration = readConfiguration(options.config);
    if (options.configuration->service.has_value())
      options.configuration->service->applyWhatIsKnown(
          command, serviceSettings(), [&](const Setting& setting) {
            options.wonByCommandLine.push_back("--" + setting.name + " of the command line wins: that of " +
                                               options.config + ":" + std::to_string(setting.line) +
                                               " is not used");
          });
  } catch (const CommandError& error) {
    options.misconfigured = error.what();
  }
}

// Troubles that a restart with these options would come upon. Changes nothing.
int checkOnly(const ServeOptions& options) {
  check(options);
  if (!options.misconfigured.empty()) throw CommandError(USAGE, options.misconfigured);
  std::vector<ServedListener> listeners = listenersOf(options);
  std::size_t configured = 0;
  if (options.configuration.has_value()) {
    for (const std::string& kept : options.wonByCommandLine) fprintf(stderr, "faultline: %s\n", kept.c_str());
    if (!options.configuration->service.has_value())
      fprintf(stderr, "faultline: there is no %s: nothing is set there\n", options.config.c_str());
    for (const ServedListener& listener : options.configuration->listeners) {
      const auto same = [&](const ServedListener& other) { return other.name == listener.name; };
      if (std::any_of(listeners.begin(), listeners.end(), same)) {
        fprintf(stderr, "faultline: listener %s is that of the command line, which wins: %s is not used\n",
                listener.name.c_str(), listener.socketAt.c_str());
        continue;
      }
      listeners.push_back(listener);
      configured++;
    }
  }
  const auto problems = whatIsWrongWith(listeners);
  for (const std::string& problem : problems) fprintf(stderr, "faultline: %s\n", problem.c_str());
  if (!problems.empty()) return USAGE;
  requireUserfaultfd();
  if (options.config.empty())
    printf("these options can be served; listeners: %zu\n", options.sockets.size());
  else
    printf("these options and %s can be served; listeners: %zu, and %zu of the configuration\n",
           options.config.c_str(), options.sockets.size(), configured);
  return OK;
}

int serve(const ServeOptions& options) {
  if (options.checkOnly) return checkOnly(options);
  supervisor::ServiceManager manager;
  supervisor::FdStore kept;
  manager.giveBack(kept);
  logToStderr();
  setLogLevel(options.service.logLevel);
  const bool tolerant = servesRestores(kept);
  ServedListeners served(kept, tolerant);
  if (!options.refused.empty())
    spdlog::error("the options are refused, and what is served is served on as it is: {}", options.refused);
  else
    makeListeners(options, served, tolerant);
  if (options.refused.empty()) makeConfiguredListeners(options, served, tolerant);
  const std::string control = KeptName::service(KeptName::Part::control).text();
  makeControlDirectory(options.control);
  if (options.refused.empty() || kept.find(control) == nullptr) {
    try {
      served.listenAt(control, options.control);
    } catch (const CommandError& error) {
      if (!tolerant || kept.find(control) == nullptr) throw;
      spdlog::error("the control socket stays where it was: {}", error.what());
    }
  }
  requireUserfaultfd();

  const process::CloseErrorsLogged closing;
  supervisor::SupervisorOptions parent;
  parent.build = process::Build::open(process::ownDirectory());
  parent.arguments = options.service.coordinatorArguments();
  parent.watchdog = std::chrono::milliseconds(options.service.watchdogMs);
  parent.startLimit = 5 * parent.watchdog;
  parent.whenReady = [&] {
    const process::LogAbout about({.messageId = process::message::SERVING});
    spdlog::info("serving; control socket {}", options.control);
  };
  const int code = supervisor::Supervisor(std::move(parent), kj::mv(kept), kj::mv(manager)).run();
  // The service manager holds the sockets and gives them to the next service.
  if (code != OK && getenv("NOTIFY_SOCKET") != nullptr)
    for (SocketFile& file : served.files()) file.leave();
  return code;
}

}  // namespace

void addServe(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<ServeOptions>();
  options->service.logLevel = "info";
  CLI::App* command = app.add_subcommand("serve", "Run the page server as a daemon");
  command->description(
      "Run the page server: a coordinator, its shards, and the supervisor that outlives them all.\n\n"
      "Targets come by handshake sockets (Firecracker's UFFD protocol), given here or added by `faultline "
      "restore`.\n\n"
      "Examples:\n"
      "  faultline serve\n"
      "  faultline serve --shards 4 --socket /run/vm1.sock --memory /snapshots/vm1.mem --name vm1\n"
      "  faultline serve --socket /run/a.sock --memory a.mem --socket /run/b.sock --memory b.mem\n"
      "  faultline serve --socket /run/a.sock --memory diff.mem --over base.mem\n\n"
      "Ends on SIGTERM, SIGINT or SIGHUP: new targets are refused, pages that targets miss are fetched (at "
      "most "
      "--stop-limit-s),\n"
      "what cannot be had is an error to them as --on-lost says. A second signal fetches no more. Under "
      "systemd "
      "(Type=notify,\n"
      "FileDescriptorStoreMax=) restores outlive even the death of this process, and SIGUSR1 ends it with "
      "all\n"
      "targets left to the next one.");
  addControl(*command, options->control);
  addServiceOptions(*command, options->service);
  command->add_option("--socket", options->sockets,
                      "Serve targets that connect here (repeatable, with --memory)");
  auto memory = command->add_option_function<std::vector<std::string>>(
      "--memory", [](const std::vector<std::string>&) {},
      "The memory file for the --socket at the same place");
  auto over = command->add_option_function<std::vector<std::string>>(
      "--over", [](const std::vector<std::string>&) {},
      "The snapshot that the --memory before it, a differential one, lies over (repeatable, the newest "
      "first)");
  command
      ->add_option("--name", options->names,
                   "What to call the restores of the --socket at the same place; default: vm1, vm2, ...")
      ->check(restoreName());
  addPolicyOptions(*command, options->policy);
  command->add_option("--working-set", options->workingSets,
                      "Populate this recorded working set first, for the --socket at the same place "
                      "(repeatable)");
  command->add_flag("--record-working-set", options->policy.recordWorkingSet,
                    "Note what each target touches first, for `faultline working-set save`; give "
                    "--no-prefault as well, else\n"
                    "pages that are populated before they are touched are not seen");
  command->add_flag("--any-user", options->anyUser, "Accept targets of any user, not only root and our own");
  command->add_flag(
      "--keep-refused", options->keepRefused,
      "Let the threads of a target that is refused wait, so that it can try again with the same "
      "userfaultfd; otherwise\nthey get SIGBUS");
  command
      ->add_option(
          "--config", options->config,
          "Take settings and listeners from this file and the folder restores.d beside it; options here win\n"
          "(docs/operating.md, Configuration). `faultline reload` has both read anew")
      ->check([](const std::string& path) {
        return path.front() == '/' ? "" : path + ": give the whole path, which a reload takes as well";
      });
  command->add_flag("--check", options->checkOnly,
                    "Only say what is wrong with these options, as before a restart (exit code 2), and end");
  command->footer(
      std::string(EXIT_CODES) +
      ",\n            64 the coordinator beside it does not take its options: it is of another build;\n"
      "            75 after SIGUSR1: everything is left to the next one");
  command->callback([options, command, memory, over, &chosen] {
    // Which --over belongs to which --memory is in their order.
    std::size_t memories = 0, overs = 0;
    for (const CLI::Option* option : command->parse_order()) {
      if (option == memory) options->memories.push_back({memory->results()[memories++]});
      if (option != over) continue;
      if (options->memories.empty())
        options->overNothing = true;
      else
        options->memories.back().push_back(over->results()[overs++]);
    }
    if (!options->config.empty()) takeConfiguration(*options, *command);
    chosen = [options] { return serve(*options); };
  });
}

Result serveWhatIsKept(const std::vector<std::string>& arguments, const std::string& refused) {
  if (arguments.empty() || arguments.front() != "serve" || !supervisor::ServiceManager::givesRestores())
    return nullptr;
  ServeOptions options;
  options.service.logLevel = "info";
  options.refused = refused;
  const auto control = std::find(arguments.begin(), arguments.end(), "--control");
  if (control != arguments.end() && control + 1 != arguments.end()) options.control = *(control + 1);
  return [options] { return serve(options); };
}

}  // namespace faultline::cli
