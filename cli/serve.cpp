#include <capnp/serialize.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "cli/common.h"
#include "cli/supervisor.h"
#include "rpc/control.capnp.h"

namespace faultline::cli {

namespace {

struct ServeOptions {
  ServiceOptions service;
  std::string control = DEFAULT_CONTROL;
  std::vector<std::string> sockets, memories, names;
  bool prefault = true, keepServing = false, anyUser = false;
};

// Removes the socket files that were made, whatever happens.
class SocketFiles {
 public:
  ~SocketFiles() {
    for (const std::string& path : paths_) unlink(path.c_str());
  }
  kj::AutoCloseFd make(const std::string& path) {
    kj::AutoCloseFd fd = makeSocket(path);
    paths_.push_back(path);
    return fd;
  }

 private:
  std::vector<std::string> paths_;
};

kj::AutoCloseFd listenSpec(const ServeOptions& options, const std::string& name, const std::string& memory) {
  int fd;
  KJ_SYSCALL(fd = memfd_create("faultline-listener", MFD_CLOEXEC));
  kj::AutoCloseFd result(fd);
  capnp::MallocMessageBuilder message;
  auto spec = message.initRoot<rpc::ListenSpec>();
  spec.setName(name.c_str());
  spec.setSourceName(memory.c_str());
  spec.setPrefault(options.prefault);
  spec.setKeepServing(options.keepServing);
  spec.setAnyUser(options.anyUser);
  capnp::writeMessageToFd(fd, message);
  return result;
}

// What systemd kept for us or made for us (socket activation), by name.
void takeFromSystemd(FdStore& kept) {
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(1, &names);
  for (int i = 0; i < count; i++) {
    kept.keep(names[i], kj::AutoCloseFd(SD_LISTEN_FDS_START + i));
    free(names[i]);
  }
  free(names);
}

bool keeps(const FdStore& kept, const std::string& name) {
  for (const auto& entry : kept.entries())
    if (entry.name == name) return true;
  return false;
}

int serve(const ServeOptions& options) {
  if (options.sockets.size() != options.memories.size())
    throw CommandError(USAGE,
                       "--socket and --memory come in pairs: " + std::to_string(options.sockets.size()) +
                           " sockets, " + std::to_string(options.memories.size()) + " memory files");
  spdlog::set_level(spdlog::level::from_str(options.service.logLevel));
  requireUserfaultfd();
  FdStore kept;
  SocketFiles files;
  takeFromSystemd(kept);
  if (!keeps(kept, "control")) {
    std::error_code ignored;
    if (options.control == DEFAULT_CONTROL)
      std::filesystem::create_directory(std::filesystem::path(options.control).parent_path(), ignored);
    kept.keep("control", files.make(options.control));
  }
  for (std::size_t i = 0; i < options.sockets.size(); i++) {
    const std::string name = i < options.names.size() ? options.names[i] : "vm" + std::to_string(i + 1);
    if (keeps(kept, "listener." + name + ".listen")) continue;
    kept.keep("listener." + name + ".source", openMemory(options.memories[i]));
    kept.keep("listener." + name + ".spec", listenSpec(options, name, options.memories[i]));
    kept.keep("listener." + name + ".listen", files.make(options.sockets[i]));
  }
  SupervisorOptions supervisor;
  supervisor.executable = rpc::siblingExecutable("faultline-coordinator");
  supervisor.arguments = options.service.coordinatorArguments();
  supervisor.watchdog = std::chrono::milliseconds(options.service.watchdogMs);
  supervisor.startLimit = 5 * supervisor.watchdog;
  supervisor.whenReady = [&] { spdlog::info("serving; control socket {}", options.control); };
  return Supervisor(std::move(supervisor), kj::mv(kept)).run();
}

}  // namespace

void addServe(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<ServeOptions>();
  options->service.logLevel = "info";
  CLI::App* command = app.add_subcommand("serve", "Run the page server as a daemon");
  command->description(
      "Run the page server: a coordinator, its shards, and the supervisor that outlives them all.\n\n"
      "Targets come by handshake sockets (Firecracker's UFFD protocol), given here or added by `faultline "
      "restore`.\n"
      "Example: faultline serve --shards 4 --socket /run/vm1.sock --memory /snapshots/vm1.mem\n"
      "Ends on SIGTERM, releasing every target whose pages are all in place.");
  addControl(*command, options->control);
  addServiceOptions(*command, options->service);
  command->add_option("--socket", options->sockets,
                      "Serve targets that connect here (repeatable, with --memory)");
  command->add_option("--memory", options->memories, "The memory file for the --socket at the same place");
  command->add_option("--name", options->names, "What to call the restores of that --socket");
  command->add_flag("!--no-prefault", options->prefault,
                    "Only answer faults; populate nothing in the background");
  command->add_flag("--keep-serving", options->keepServing, "Do not release a target when it has every page");
  command->add_flag("--any-user", options->anyUser, "Accept targets of any user, not only root and our own");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return serve(*options); }; });
}

}  // namespace faultline::cli
