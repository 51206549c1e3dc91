// faultline run: serves a memory file for as long as a command lives.

#include <kj/async-unix.h>
#include <signal.h>

#include <cstdio>
#include <memory>
#include <optional>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/own_service.h"
#include "cli/policy_options.h"
#include "cli/restore_options.h"
#include "cli/scratch.h"
#include "cli/service_options.h"
#include "cli/session.h"
#include "cli/socket_file.h"
#include "cli/user_command.h"
#include "cli/working_set_file.h"
#include "rpc/fd.h"

namespace faultline::cli {

namespace {

struct RunOptions {
  ServiceOptions service;
  PolicyOptions policy;
  std::string memory, name = "vm", workingSet;
  std::vector<std::string> over, command;
};

// Every "{}" becomes the path.
std::vector<std::string> withPath(std::vector<std::string> arguments, const std::string& path) {
  for (std::string& argument : arguments)
    for (std::size_t at = 0; (at = argument.find("{}", at)) != std::string::npos; at += path.size())
      argument.replace(at, 2, path);
  return arguments;
}

void listen(Session& session, const RunOptions& options, Memory memory, const WorkingSet* workingSet,
            kj::AutoCloseFd socket) {
  auto request = session.coordinator().listenRequest();
  auto spec = request.initSpec();
  spec.setName(options.name.c_str());
  fill(spec.initPolicy(), options.policy, workingSet);
  request.setSocket(rpc::makeFd(kj::mv(socket)));
  fill(request.initSource(), memory);
  memory.files.clear();
  session.wait(request.send());
}

// An interrupt of the terminal reaches the command as well, and is its to see to. What is sent to us alone is handed on.
kj::Promise<void> handOn(kj::UnixEventPort& port, int number, const UserCommand& command) {
  return port.onSignal(number).then([&port, number, &command](siginfo_t&&) {
    if (number != SIGINT) command.signal(number);
    return handOn(port, number, command);
  });
}

kj::Promise<void> whenEnded(kj::UnixEventPort& port, int pidfd) {
  auto observer =
      kj::heap<kj::UnixEventPort::FdObserver>(port, pidfd, kj::UnixEventPort::FdObserver::OBSERVE_READ);
  auto ended = observer->whenBecomesReadable();
  return ended.attach(kj::mv(observer));
}

int run(const RunOptions& options) {
  Memory memory = openStack(pathsOf(options.memory, options.over));
  std::optional<WorkingSet> workingSet;
  if (!options.workingSet.empty()) workingSet = readWorkingSetFor(options.workingSet, memory);
  requireUserfaultfd();
  Interrupts::capture();
  OwnService service(options.service);
  SocketFile socket(service.directory() + "/socket");
  Session session(service.control());
  listen(session, options, kj::mv(memory), workingSet.has_value() ? &*workingSet : nullptr, socket.take());

  UserCommand command(withPath(options.command, socket.path()),
                      {{"FAULTLINE_SOCKET", socket.path()}, {"FAULTLINE_CONTROL", service.control()}});
  auto& port = session.client().io().unixEventPort;
  auto signals = kj::heapArrayBuilder<kj::Promise<void>>(3);
  for (const int number : {SIGINT, SIGTERM, SIGHUP})
    signals.add(handOn(port, number, command).eagerlyEvaluate([](kj::Exception&&) {}));
  const auto handingOn = signals.finish();
  const bool served = whenEnded(port, command.pidfd())
                          .then([] { return true; })
                          .exclusiveJoin(whenEnded(port, service.pidfd()).then([] { return false; }))
                          .wait(session.client().io().waitScope);
  if (!served) {
    // Pages that it misses would read as zeros.
    command.signal(SIGKILL);
    command.wait();
    throw CommandError(FAILED, "the service has ended, and " + options.command.front() + " is killed");
  }
  return command.wait();
}

}  // namespace

void addRun(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("run", "Serve a memory file for as long as a command lives");
  command->description(
      "Start a service of its own, run COMMAND, and end when that ends, with its exit code. COMMAND finds "
      "the "
      "handshake\n"
      "socket's path in FAULTLINE_SOCKET, and wherever {} stands in its arguments; FAULTLINE_CONTROL has "
      "that of "
      "the\n"
      "control socket. Any number of targets can come. What a target that outlives COMMAND misses is fetched "
      "first.\n\n"
      "Examples:\n"
      "  faultline run --memory vm.mem -- faultline-target --socket {} --image vm.mem\n"
      "  faultline run --memory vm.mem -- ./my-harness\n\n"
      "SIGTERM and SIGHUP are handed on to COMMAND.");
  command->add_option("--memory", options->memory, "The snapshot's memory file")->required();
  addOver(*command, options->over);
  command->add_option("--name", options->name, "What to call the restores")
      ->check(restoreName())
      ->capture_default_str();
  addPolicyOptions(*command, options->policy);
  command->add_option("--working-set", options->workingSet,
                      "Populate this recorded working set before everything else, in its order");
  addServiceOptions(*command, options->service);
  command->add_option("COMMAND", options->command, "Behind --: the program, and its arguments")->required();
  command->footer(
      std::string(EXIT_CODES) +
      ",\n            126 COMMAND cannot be run, 127 it is not there; else those of COMMAND, and 128 and the "
      "signal that killed it");
  command->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace faultline::cli
