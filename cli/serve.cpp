#include <capnp/serialize.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>

#include <filesystem>
#include <list>
#include <memory>
#include <optional>
#include <set>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/policy_options.h"
#include "cli/restore_options.h"
#include "cli/service_options.h"
#include "cli/socket_file.h"
#include "cli/working_set_file.h"
#include "rpc/kept.capnp.h"
#include "supervisor/supervisor.h"

namespace faultline::cli {

namespace {

struct ServeOptions {
  ServiceOptions service;
  PolicyOptions policy;
  std::string control = DEFAULT_CONTROL;
  std::vector<std::string> sockets, memories, names, workingSets;
  bool anyUser = false;

  std::string name(std::size_t i) const { return i < names.size() ? names[i] : "vm" + std::to_string(i + 1); }
};

// Before anything is made. The parser has checked each option by itself.
void check(const ServeOptions& options) {
  if (options.sockets.size() != options.memories.size())
    throw CommandError(USAGE, "--socket and --memory come in pairs, but there are " +
                                  std::to_string(options.sockets.size()) + " sockets and " +
                                  std::to_string(options.memories.size()) + " memory files");
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

// What a coordinator needs to know of a handshake socket, in memory that nobody can change.
kj::AutoCloseFd listenSpec(const ServeOptions& options, std::size_t i, int memory) {
  int fd;
  KJ_SYSCALL(fd = memfd_create("faultline-listener", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  kj::AutoCloseFd result(fd);
  capnp::MallocMessageBuilder message;
  auto kept = message.initRoot<rpc::KeptListener>();
  kept.setSourceName(options.memories[i].c_str());
  auto spec = kept.initSpec();
  spec.setName(options.name(i).c_str());
  spec.setAnyUser(options.anyUser);
  std::optional<WorkingSet> workingSet;
  if (i < options.workingSets.size())
    workingSet = readWorkingSetFor(options.workingSets[i], memory, options.memories[i]);
  fill(spec.initPolicy(), options.policy, workingSet.has_value() ? &*workingSet : nullptr);
  capnp::writeMessageToFd(fd, message);
  KJ_SYSCALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  return result;
}

// /run/faultline is ours to make; any other directory is the operator's.
void makeControlDirectory(const std::string& control) {
  std::error_code ignored;  // the socket cannot be made then, which says why
  if (control == DEFAULT_CONTROL)
    std::filesystem::create_directory(std::filesystem::path(control).parent_path(), ignored);
}

int serve(const ServeOptions& options) {
  check(options);
  supervisor::FdStore kept;
  supervisor::ServiceManager::giveBack(kept);
  std::list<SocketFile> files;
  auto socketAt = [&files](const std::string& path) { return files.emplace_back(path).take(); };
  for (std::size_t i = 0; i < options.sockets.size(); i++) {
    const std::string stem = "listener." + options.name(i);
    const bool served = kept.find(stem + ".spec") != nullptr;
    if (!served) {
      kj::AutoCloseFd memory = openMemory(options.memories[i]);
      kept.keep(stem + ".spec", listenSpec(options, i, memory.get()));
      kept.keep(stem + ".source", kj::mv(memory));
    }
    if (kept.find(stem + ".listen") == nullptr)
      kept.keep(stem + ".listen", socketAt(options.sockets[i]));
    else if (served)
      // Left by the service before us. A socket that came without the rest is socket activation, and its file
      // the service manager's.
      files.emplace_back(options.sockets[i], SocketFile::Left());
  }
  if (kept.find("control") == nullptr) {
    makeControlDirectory(options.control);
    kept.keep("control", socketAt(options.control));
  }
  requireUserfaultfd();

  logToStderr();
  setLogLevel(options.service.logLevel);
  supervisor::SupervisorOptions parent;
  parent.build = process::Build::open(process::ownDirectory());
  parent.arguments = options.service.coordinatorArguments();
  parent.watchdog = std::chrono::milliseconds(options.service.watchdogMs);
  parent.startLimit = 5 * parent.watchdog;
  parent.whenReady = [&] { spdlog::info("serving; control socket {}", options.control); };
  const int code = supervisor::Supervisor(std::move(parent), kj::mv(kept)).run();
  // The service manager holds the sockets and gives them to the next service.
  if (code != OK && getenv("NOTIFY_SOCKET") != nullptr)
    for (SocketFile& file : files) file.leave();
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
      "  faultline serve --socket /run/a.sock --memory a.mem --socket /run/b.sock --memory b.mem\n\n"
      "Ends on SIGTERM, SIGINT or SIGHUP: every target is released then, and pages that it still misses are "
      "lost to it,\n"
      "so wait for them (faultline prefault NAME --wait) before. Under systemd (Type=notify,\n"
      "FileDescriptorStoreMax=) restores outlive even the death of this process, and SIGUSR1 ends it with "
      "all\n"
      "targets left to the next one.");
  addControl(*command, options->control);
  addServiceOptions(*command, options->service);
  command->add_option("--socket", options->sockets,
                      "Serve targets that connect here (repeatable, with --memory)");
  command->add_option("--memory", options->memories, "The memory file for the --socket at the same place");
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
  command->footer(
      std::string(EXIT_CODES) +
      ",\n            64 the coordinator beside it does not take its options: it is of another build;\n"
      "            75 after SIGUSR1: everything is left to the next one");
  command->callback([options, &chosen] { chosen = [options] { return serve(*options); }; });
}

}  // namespace faultline::cli
