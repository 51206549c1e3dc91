#include <kj/common.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>

#include "cli/common.h"
#include "cli/own_service.h"
#include "cli/progress.h"
#include "rpc/fd.h"

namespace faultline::cli {

namespace {

struct RestoreOptions {
  ServiceOptions service;
  std::string control;
  std::string memory, socket, name = "restore";
  bool prefault = true, keepServing = false, anyUser = false, json = false;
};

// How long a lost server may take to be there again.
constexpr std::chrono::seconds RECONNECT_PATIENCE{30};

// Until the successor of a coordinator that has gone answers; throws DISCONNECTED when it does not in time.
void awaitSuccessor(rpc::ControlClient& client) {
  const auto deadline = std::chrono::steady_clock::now() + RECONNECT_PATIENCE;
  for (;;) {
    try {
      client.reconnect();
      client.wait(client.coordinator().listRequest().send());
      return;
    } catch (const kj::Exception& e) {
      if (e.getType() != kj::Exception::Type::DISCONNECTED || std::chrono::steady_clock::now() >= deadline)
        throw;
      poll(nullptr, 0, 10);
    }
  }
}

class RestoreCommand {
 public:
  explicit RestoreCommand(const RestoreOptions& options)
      : options_(options), progress_(options.json ? Output::json : Output::people) {}
  ~RestoreCommand() {
    if (made_) unlink(options_.socket.c_str());
  }

  int run() {
    requireUserfaultfd();
    kj::AutoCloseFd memory = openMemory(options_.memory);
    kj::AutoCloseFd socket = makeSocket(options_.socket);
    made_ = true;
    rpc::ControlClient client(findService());
    KJ_DEFER(listener_ = nullptr);  // before the event loop that it lives in
    listen(client, kj::mv(memory), kj::mv(socket));
    progress_.say("waiting for a target at " + options_.socket);
    const std::string name = waitForTarget(client);
    return follow(client, name);
  }

 private:
  // The daemon that was named, else the default one if it is there, else one of our own.
  std::string findService() {
    if (!options_.control.empty()) return options_.control;
    if (access(DEFAULT_CONTROL, W_OK) == 0) {
      try {
        rpc::connectTo(DEFAULT_CONTROL);
        return DEFAULT_CONTROL;
      } catch (const kj::Exception&) {  // a socket file that a daemon left behind
      }
    }
    own_ = std::make_unique<OwnService>(options_.service);
    return own_->control();
  }

  void listen(rpc::ControlClient& client, kj::AutoCloseFd memory, kj::AutoCloseFd socket) {
    auto request = client.coordinator().listenRequest();
    auto spec = request.initSpec();
    spec.setName(options_.name.c_str());
    spec.setSourceName(options_.memory.c_str());
    spec.setPrefault(options_.prefault);
    spec.setKeepServing(options_.keepServing);
    spec.setAnyUser(options_.anyUser);
    request.setSocket(rpc::makeFd(kj::mv(socket)));
    request.setSource(rpc::makeFd(kj::mv(memory)));
    listener_ = client.wait(request.send()).getListener();
  }

  // The name of the restore of the first target that is accepted; tells of refused ones meanwhile.
  std::string waitForTarget(rpc::ControlClient& client) {
    auto next = KJ_ASSERT_NONNULL(listener_).nextRestoreRequest().send().then(
        [](capnp::Response<rpc::Listener::NextRestoreResults> r) -> kj::Maybe<std::string> {
          return std::string(r.getInfo().getName().cStr());
        });
    auto forked = next.fork();
    std::uint64_t refused = 0;
    for (;;) {
      auto tick = client.io()
                      .provider->getTimer()
                      .afterDelay(200 * kj::MILLISECONDS)
                      .then([]() -> kj::Maybe<std::string> { return nullptr; });
      auto name = client.wait(forked.addBranch().exclusiveJoin(kj::mv(tick)));
      KJ_IF_MAYBE (found, name) {
        return *found;
      }
      auto error = client.wait(KJ_ASSERT_NONNULL(listener_).lastErrorRequest().send());
      if (error.getRefused() > refused) progress_.say(std::string("refused: ") + error.getMessage().cStr());
      refused = error.getRefused();
    }
  }

  // Shows the restore until it is over.
  int follow(rpc::ControlClient& client, const std::string& name) {
    capnp::MallocMessageBuilder last;
    bool any = false;
    for (;;) {
      try {
        auto restore = client.restore(name);
        auto ended = restore.waitEndedRequest()
                         .send()
                         .then([](capnp::Response<rpc::Restore::WaitEndedResults> r) {
                           return std::string(r.getReason().cStr());
                         })
                         .fork();
        for (;;) {
          auto info = client.wait(restore.infoRequest().send());
          last.setRoot(info.getInfo());
          any = true;
          progress_.show(info.getInfo());
          if (info.getInfo().getPhase() == rpc::Phase::FAILED)
            throw CommandError(FAILED,
                               "restore " + name + " has failed: " + info.getInfo().getFailure().cStr());
          auto tick =
              client.io().provider->getTimer().afterDelay(progress_.intervalMs() * kj::MILLISECONDS).then([] {
                return std::string();
              });
          const std::string reason = client.wait(ended.addBranch().exclusiveJoin(kj::mv(tick)));
          if (!reason.empty()) return conclude(last.getRoot<rpc::RestoreInfo>(), reason);
        }
      } catch (const kj::Exception& e) {
        if (e.getType() == kj::Exception::Type::DISCONNECTED) {
          listener_ = nullptr;
          progress_.say("the coordinator has gone; waiting for its successor");
          awaitSuccessor(client);
          continue;
        }
        // Over between two looks.
        if (any) return conclude(last.getRoot<rpc::RestoreInfo>(), messageOf(e));
        throw;
      }
    }
  }

  int conclude(rpc::RestoreInfo::Builder info, const std::string& reason) {
    if (reason.rfind("complete", 0) == 0) {
      info.setFaulted(info.getPages() - info.getRemoved());
      info.setMissing(0);
    }
    progress_.finish(info.asReader(), reason);
    return OK;
  }

  const RestoreOptions& options_;
  Progress progress_;
  bool made_ = false;
  std::unique_ptr<OwnService> own_;
  kj::Maybe<rpc::Listener::Client> listener_;
};

}  // namespace

void addRestore(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<RestoreOptions>();
  CLI::App* command = app.add_subcommand("restore", "Serve one target from a memory file");
  command->description(
      "Open a handshake socket for one target, serve its memory from a snapshot's memory file, show the "
      "progress, and\n"
      "end when the target has everything or has gone. Uses a running `faultline serve`; without one it runs "
      "its own\n"
      "coordinator and shards.\n\n"
      "Example: faultline restore --memory vm.mem --socket /tmp/vm.sock\n"
      "         and to Firecracker: PUT /snapshot/load "
      "{\"mem_backend\":{\"backend_type\":\"Uffd\",\"backend_path\":\"/tmp/vm.sock\"},...}");
  command->add_option("--memory", options->memory, "The snapshot's memory file")->required();
  command->add_option("--socket", options->socket, "Where the target connects")->required();
  command->add_option("--name", options->name, "What to call the restore")->capture_default_str();
  command->add_option("--control", options->control, "Use the server with this control socket");
  command->add_flag("!--no-prefault", options->prefault,
                    "Only answer faults; populate nothing in the background");
  command->add_flag("--keep-serving", options->keepServing,
                    "Go on serving after the last page, until the target goes");
  command->add_flag("--any-user", options->anyUser, "Accept a target of any user, not only root and our own");
  command->add_flag("--json", options->json, "Print JSON, an object a line");
  addServiceOptions(*command, options->service);
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return RestoreCommand(*options).run(); }; });
}

}  // namespace faultline::cli
