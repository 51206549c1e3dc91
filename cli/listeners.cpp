// listen, unlisten, listeners: handshake sockets at run time; and reload, which has the configuration read anew.
#include "cli/listeners.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
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
#include "cli/session.h"
#include "cli/table.h"
#include "cli/working_set_file.h"
#include "process/plain_text.h"

namespace faultline::cli {

using nlohmann::json;

const char* originName(rpc::ListenerOrigin origin) {
  switch (origin) {
    case rpc::ListenerOrigin::COMMAND_LINE:
      return "command line";
    case rpc::ListenerOrigin::CONFIGURATION:
      return "configuration";
    case rpc::ListenerOrigin::CALL:
      return "call";
  }
  return "?";
}

json listenersJson(capnp::List<rpc::ListenerInfo>::Reader listeners) {
  json all = json::array();
  for (auto listener : listeners) {
    json layers = json::array();
    for (auto layer : listener.getLayers()) layers.push_back(layer.cStr());
    json one = policyJson(listener.getPolicy());
    one.update({{"listener", listener.getName().cStr()},
                {"origin", originName(listener.getOrigin())},
                {"socket", listener.getPath().cStr()},
                {"layers", std::move(layers)},
                {"any_user", listener.getAnyUser()},
                {"begun", listener.getBegun()},
                {"refused", listener.getRefused()},
                {"last_refusal", listener.getLastRefusal().cStr()}});
    all.push_back(std::move(one));
  }
  return all;
}

namespace {

// Given to the server as it is by now: paths of the command line may be relative.
std::optional<WorkingSet> workingSetOf(const ServedListener& listener) {
  if (listener.workingSet.empty()) return std::nullopt;
  return readWorkingSetFor(listener.workingSet, openStack(listener.layers));
}

// --- listen, unlisten, listeners ---

struct ListenOptions {
  std::string control = DEFAULT_CONTROL, memory, mode = "0600";
  std::vector<std::string> over;
  ServedListener listener;
};

int listen(ListenOptions& options) {
  ServedListener& listener = options.listener;
  listener.layers = pathsOf(options.memory, options.over);
  listener.access.mode = static_cast<std::uint16_t>(std::stoul(options.mode, nullptr, 8));
  const auto workingSet = workingSetOf(listener);
  Interrupts::capture();
  Session session(options.control);
  auto request = session.coordinator().listenAtRequest();
  fill(request.initPlaced(), listener, workingSet.has_value() ? &*workingSet : nullptr);
  session.wait(request.send());
  printf("targets that connect to %s are served as %s; `faultline unlisten %s` ends that\n",
         listener.socket.c_str(), listener.name.c_str(), listener.name.c_str());
  return OK;
}

int unlisten(const std::string& control, const std::string& name) {
  Interrupts::capture();
  Session session(control);
  auto request = session.coordinator().unlistenRequest();
  request.setName(name.c_str());
  session.wait(request.send());
  return OK;
}

int printListeners(const std::string& control, bool asJson) {
  Interrupts::capture();
  Session session(control);
  auto response = session.wait(session.coordinator().listenersRequest().send());
  if (asJson) {
    printf("%s\n",
           listenersJson(response.getListeners()).dump(2, ' ', true, json::error_handler_t::replace).c_str());
    return OK;
  }
  if (response.getListeners().size() == 0) {
    printf("no listeners\n");
    return OK;
  }
  Table table;
  for (const char* name : {"LISTENER", "ORIGIN", "BEGUN", "REFUSED", "SOCKET", "MEMORY"}) table.column(name);
  for (auto listener : response.getListeners()) {
    std::string layers;
    for (auto layer : listener.getLayers())
      layers += (layers.empty() ? "" : " over ") + std::string(layer.cStr());
    table.line();
    table.cell(listener.getName().cStr());
    table.cell(originName(listener.getOrigin()));
    table.cell(std::to_string(listener.getBegun()));
    table.cell(std::to_string(listener.getRefused()));
    table.cell(listener.getPath().cStr());
    table.cell(layers);
  }
  table.print();
  return OK;
}

// --- reload ---

using Arguments = std::map<std::string, std::string>;

Arguments pairsOf(const std::vector<std::string>& arguments) {
  Arguments pairs;
  for (std::size_t i = 0; i + 1 < arguments.size(); i++)
    if (arguments[i].rfind("--", 0) == 0) pairs[arguments[i]] = arguments[i + 1];
  return pairs;
}

// Listeners of the coordinator that runs; empty where they cannot be seen.
Arguments inForce(std::uint32_t coordinator) {
  std::ifstream file("/proc/" + std::to_string(coordinator) + "/cmdline");
  std::vector<std::string> arguments;
  for (std::string each; std::getline(file, each, '\0');) arguments.push_back(each);
  return pairsOf(arguments);
}

// The settings of the service itself, which a service has from its start.
void tellWhatWaits(Session& session, const Configuration& configuration) {
  ServiceOptions set;
  const ServiceOptions none;
  set.logLevel = "info";
  CLI::App app;
  addServiceOptions(app, set);
  configuration.service->applyWhatIsKnown(app, serviceSettings(), [](const Setting&) {});
  const Arguments unset = pairsOf(none.coordinatorArguments()), wanted = pairsOf(set.coordinatorArguments());
  const Arguments now =
      inForce(session.wait(session.coordinator().statusRequest().send()).getService().getCoordinatorPid());
  if (now.empty()) return;
  for (const auto& [name, value] : wanted) {
    const auto before = unset.find(name), running = now.find(name);
    if ((before != unset.end() && before->second == value && name != "--log-level") ||
        (running != now.end() && running->second == value))
      continue;
    if (name == "--log-level" && configuration.service->find("log-level") == nullptr) continue;
    printf(
        "%s: %s in %s, %s in force: it takes effect at the next start, unless the command line says "
        "otherwise\n",
        name.c_str() + 2, value.c_str(), configuration.path.c_str(),
        running == now.end() ? "none" : process::plainText(running->second).c_str());
  }
}

int reload(const std::string& control, const std::string& path) {
  Configuration configuration = readConfiguration(path);
  // With a wrong path everything would be closed.
  if (!configuration.service.has_value() && configuration.listeners.empty())
    throw CommandError(USAGE,
                       "there is no " + path + " and no file in restores.d beside it: nothing is changed");
  Interrupts::capture();
  Session session(control);
  // The command line's listeners win.
  auto present = session.wait(session.coordinator().listenersRequest().send());
  std::set<std::string> ofCommandLine;
  for (auto listener : present.getListeners())
    if (listener.getOrigin() == rpc::ListenerOrigin::COMMAND_LINE)
      ofCommandLine.insert(listener.getName().cStr());
  std::erase_if(configuration.listeners, [&](const ServedListener& listener) {
    if (ofCommandLine.count(listener.name) == 0) return false;
    fprintf(stderr, "faultline: listener %s is that of the command line, which wins: %s is not used\n",
            listener.name.c_str(), listener.socketAt.c_str());
    return true;
  });
  const auto problems = whatIsWrongWith(configuration.listeners);
  for (const std::string& problem : problems)
    fprintf(stderr, "faultline: %s\n", process::plainText(problem).c_str());
  if (!problems.empty()) {
    fprintf(stderr, "faultline: nothing is changed\n");
    return USAGE;
  }
  auto request = session.coordinator().configureRequest();
  auto listeners = request.initListeners(static_cast<unsigned>(configuration.listeners.size()));
  for (unsigned i = 0; i < listeners.size(); i++) {
    const auto workingSet = workingSetOf(configuration.listeners[i]);
    fill(listeners[i], configuration.listeners[i], workingSet.has_value() ? &*workingSet : nullptr);
  }
  auto counts = session.wait(request.send());
  printf("%u listeners: %u new, %u changed, %u closed\n", listeners.size(), counts.getAdded(),
         counts.getChanged(), counts.getRemoved());
  if (configuration.service.has_value()) tellWhatWaits(session, configuration);
  return OK;
}

}  // namespace

void addListeners(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<ListenOptions>();
  CLI::App* command = app.add_subcommand("listen", "Serve targets that connect to a further socket");
  command->description(
      "Have a running service make a handshake socket, and serve targets that connect to it, until "
      "`faultline\n"
      "unlisten`. Owner, group and mode of the socket are set before anyone can connect.\n\n"
      "Examples:\n"
      "  faultline listen vm3 --socket /run/faultline/vm3.sock --memory /snapshots/vm3.mem\n"
      "  faultline listen vm4 --socket /srv/jail/vm4/uffd.sock --memory vm4.mem --owner 1004 --mode 0600 "
      "--any-user");
  addControl(*command, options->control);
  command->add_option("NAME", options->listener.name, "What to call it and its restores")
      ->required()
      ->check(restoreName());
  command->add_option("--socket", options->listener.socket, "Where targets connect")->required();
  command->add_option("--memory", options->memory, "The snapshot's memory file")->required();
  addOver(*command, options->over);
  addSocketAccess(*command, options->listener.access, options->mode);
  addPolicyOptions(*command, options->listener.policy);
  command->add_option("--working-set", options->listener.workingSet,
                      "Populate this recorded working set first");
  command->add_flag("--record-working-set", options->listener.policy.recordWorkingSet,
                    "Note what each target touches first, for `faultline working-set save`");
  command->add_flag("--any-user", options->listener.anyUser,
                    "Accept targets of any user, not only root and the server's");
  command->add_flag(
      "--keep-refused", options->listener.keepRefused,
      "Let the threads of a target that is refused wait, so that it can try again with the same userfaultfd");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return listen(*options); }; });

  struct Named {
    std::string control = DEFAULT_CONTROL, name, config = DEFAULT_CONFIGURATION;
    bool json = false;
  };
  auto close = std::make_shared<Named>();
  command = app.add_subcommand("unlisten", "Serve no further targets by a socket");
  command->description(
      "Close a listener: no further target is served by it, its socket is removed, restores run on.\n\n"
      "Example:\n  faultline unlisten vm3");
  addControl(*command, close->control);
  command->add_option("NAME", close->name, "The listener's")->required();
  command->footer(EXIT_CODES);
  command->callback([close, &chosen] { chosen = [close] { return unlisten(close->control, close->name); }; });

  auto list = std::make_shared<Named>();
  command = app.add_subcommand("listeners", "The sockets by which targets come");
  command->description(
      "List the listeners of a service: who made each (the command line, the configuration, a call), its "
      "socket,\n"
      "its memory, and how many targets came by it.\n\n"
      "Examples:\n  faultline listeners\n  faultline listeners --json | jq '.[] | {listener, origin, "
      "begun}'");
  addControl(*command, list->control);
  command->add_flag("--json", list->json, "Print a JSON array");
  command->footer(EXIT_CODES);
  command->callback(
      [list, &chosen] { chosen = [list] { return printListeners(list->control, list->json); }; });

  auto again = std::make_shared<Named>();
  command = app.add_subcommand("reload", "Take the configuration as it is now");
  command->description(
      "Read the configuration anew, check it, and have the running service listen as it says: what is added, "
      "changed\n"
      "and removed takes effect for new targets, restores that run keep what they began with. A "
      "configuration with a\n"
      "mistake changes nothing; the message has file and line. Settings of the service itself wait for its "
      "next start.\n\n"
      "Examples:\n  faultline reload\n  faultline serve --check --config /etc/faultline/faultline.conf");
  addControl(*command, again->control);
  command->add_option("--config", again->config, "The configuration's file, as for serve")
      ->capture_default_str();
  command->footer(EXIT_CODES);
  command->callback([again, &chosen] { chosen = [again] { return reload(again->control, again->config); }; });
}

}  // namespace faultline::cli
