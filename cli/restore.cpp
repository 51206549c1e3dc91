#include <kj/common.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <optional>
#include <set>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/own_service.h"
#include "cli/policy_options.h"
#include "cli/progress.h"
#include "cli/recorded_working_set.h"
#include "cli/restore_options.h"
#include "cli/service_options.h"
#include "cli/session.h"
#include "cli/socket_file.h"
#include "cli/working_set_file.h"
#include "process/duplicate.h"
#include "rpc/connection.h"
#include "rpc/fd.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

struct RestoreOptions {
  ServiceOptions service;
  std::string control;
  std::string memory, socket, name = "restore";
  std::vector<std::string> over;   // the layers below `memory`
  std::string workingSet, record;  // files
  std::string ofService;           // an option of `service` that was given; empty: none was
  PolicyOptions policy;
  bool anyUser = false, keepRefused = false, json = false;
};

// How often the server is asked, more often than it is shown: the last figures are taken before the end.
constexpr std::chrono::milliseconds LOOK{100};
// Interval of looks at the restores that there are, and were.
constexpr std::chrono::milliseconds LOOK_AT_LIST{10};

bool isDisconnect(const kj::Exception& error) {
  return error.getType() == kj::Exception::Type::DISCONNECTED;
}

class RestoreCommand {
 public:
  explicit RestoreCommand(const RestoreOptions& options)
      : options_(options), progress_(options.json ? Output::json : Output::people) {}

  int run() {
    memory_ = openStack(pathsOf(options_.memory, options_.over));
    if (!options_.workingSet.empty()) workingSet_ = readWorkingSetFor(options_.workingSet, memory_);
    if (!options_.record.empty()) requireWritable(options_.record);
    SocketFile socket(options_.socket);
    Interrupts::capture();
    const std::string service = findService();
    if (own_ == nullptr && !options_.ofService.empty())
      throw CommandError(USAGE, options_.ofService +
                                    " is of a service, and this restore is served by the one at " + service +
                                    ": give it to `faultline serve`, or leave it out");
    session_.emplace(service, Session::Interrupted::command);
    // Before the event loop that they live in.
    KJ_DEFER({
      recorded_ = nullptr;
      restore_ = nullptr;
      listener_ = nullptr;
      session_.reset();
    });
    listen(socket.take());
    progress_.say("waiting for a target at " + options_.socket +
                  (own_ == nullptr ? "; served by the server at " + service : ""));
    const std::string name = waitForTarget();
    return follow(name);
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
    requireUserfaultfd();
    own_ = std::make_unique<OwnService>(options_.service);
    return own_->control();
  }

  // A restore that the server knows: it is served, or is over.
  struct Known {
    std::uint64_t id = 0;
    std::string name;
    bool over = false;
  };

  // Served restores are asked for first: a restore that is over by then is among those that are over.
  std::vector<Known> knownRestores() {
    std::vector<Known> known;
    auto served = session_->wait(session_->coordinator().listRequest().send());
    for (auto info : served.getRestores()) known.push_back({info.getId(), info.getName().cStr(), false});
    ended([&](rpc::EndedRestore::Reader restore) {
      known.push_back({restore.getInfo().getId(), restore.getInfo().getName().cStr(), true});
    });
    return known;
  }

  // Restores that are over, the latest first. A server of an earlier version tells of none.
  void ended(const std::function<void(rpc::EndedRestore::Reader)>& each) {
    auto told = session_->wait(session_->coordinator().endedRequest().send().then(
        [](capnp::Response<rpc::Coordinator::EndedResults> response) {
          return kj::Maybe<capnp::Response<rpc::Coordinator::EndedResults>>(kj::mv(response));
        },
        [](kj::Exception&& error) -> kj::Maybe<capnp::Response<rpc::Coordinator::EndedResults>> {
          if (error.getType() != kj::Exception::Type::UNIMPLEMENTED) kj::throwFatalException(kj::mv(error));
          return nullptr;
        }));
    KJ_IF_MAYBE (response, told) {
      for (auto restore : response->getRestores()) each(restore);
    }
  }

  void listen(kj::AutoCloseFd socket) {
    for (const Known& restore : knownRestores()) before_.insert(restore.id);
    auto request = session_->coordinator().listenRequest();
    auto spec = request.initSpec();
    spec.setName(options_.name.c_str());
    fill(spec.initPolicy(), options_.policy, workingSet_.has_value() ? &*workingSet_ : nullptr);
    spec.setAnyUser(options_.anyUser);
    spec.setKeepRefused(options_.keepRefused);
    socket_ = process::duplicate(socket.get());
    request.setSocket(rpc::makeFd(kj::mv(socket)));
    fill(request.initSource(), memory_);
    memory_.files.clear();
    listener_ = session_->wait(request.send()).getListener();
  }

  void comeBack() {
    listener_ = nullptr;
    recorded_ = nullptr;
    restore_ = nullptr;
    progress_.say("the coordinator has gone; waiting for its successor");
    session_->awaitSuccessor([this] { return own_ != nullptr && own_->gone(); });
  }

  // --- until a target is there ---

  // The name of the restore of the first target that is accepted.
  std::string waitForTarget() {
    for (;;) {
      try {
        std::string name = listener_ != nullptr ? nextOfListener() : nextOfList();
        closeListener();
        // At an interrupt a target may be there that we have not heard of. None can come any more.
        if (name.empty()) name = ourRestore();
        if (name.empty()) throw CommandError(FAILED, "interrupted before a target came");
        return name;
      } catch (const kj::Exception& error) {
        if (!isDisconnect(error)) throw;
        comeBack();
      }
    }
  }

  // As nextOfList().
  std::string nextOfListener() {
    auto& listener = KJ_ASSERT_NONNULL(listener_);
    std::string name;
    auto next = listener.nextRestoreRequest()
                    .send()
                    .then([&](capnp::Response<rpc::Listener::NextRestoreResults> response) {
                      name = response.getInfo().getName().cStr();
                      restore_ = response.getRestore();
                    })
                    .fork();
    std::uint64_t refused = 0;
    while (name.empty()) {
      if (interruptedIn(next.addBranch().exclusiveJoin(session_->after(LOOK)))) return "";
      auto error = session_->wait(listener.lastErrorRequest().send());
      if (error.getRefused() > refused)
        progress_.say(std::string("refused a target: ") + error.getMessage().cStr());
      refused = error.getRefused();
    }
    return name;
  }

  // The successor of a coordinator serves our socket, but its Listener is not to be had again. Empty: interrupted.
  std::string nextOfList() {
    for (;;) {
      if (std::string name = ourRestore(); !name.empty()) return name;
      if (interruptedIn(session_->after(LOOK_AT_LIST))) return "";
    }
  }

  // A restore of our name that was not there before is our target's; it may be over by now. Empty: there is none.
  std::string ourRestore() {
    for (const Known& restore : knownRestores())
      if (before_.count(restore.id) == 0 &&
          (restore.name == options_.name || restore.name.starts_with(options_.name + "-")))
        return restore.name;
    return "";
  }

  // Closes the listener: only one target was asked for. The restore does not need it any more.
  void closeListener() {
    auto closed = [this]() -> kj::Promise<void> {
      KJ_IF_MAYBE (listener, listener_) {
        return listener->closeRequest().send().ignoreResult();
      }
      auto request = session_->coordinator().unlistenRequest();
      request.setName(options_.name.c_str());
      return request.send().ignoreResult();
    }();
    const bool done = session_->wait(closed.then([] { return true; }, [](kj::Exception&&) { return false; }));
    listener_ = nullptr;
    if (done) turnAway();  // else a successor accepts on it
  }

  // Who connects from now on hears ECONNREFUSED, and who has connected and was not taken yet that the connection
  // is closed. The server may hold the socket for a while still.
  void turnAway() {
    ::shutdown(socket_.get(), SHUT_RDWR);
    for (int fd; (fd = accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) close(fd);
    socket_ = nullptr;
  }

  bool interruptedIn(kj::Promise<void> promise) {
    return session_->wait(
        promise.then([] { return false; }).exclusiveJoin(session_->interrupts().next().then([] {
          return true;
        })));
  }

  // --- until it is over ---

  struct End {
    rpc::EndReason reason = rpc::EndReason::NOT_ENDED;
    std::string text;
    std::uint64_t missing = 0;  // pages
  };

  int follow(const std::string& name) {
    view_.name = name;
    for (;;) {
      try {
        return followOnce(name);
      } catch (const kj::Exception& error) {
        if (!isDisconnect(error)) throw;
        comeBack();
      }
    }
  }

  bool isServed(const std::string& name) {
    for (const Known& restore : knownRestores())
      if (restore.name == name && !restore.over) return true;
    return false;
  }

  // Figures of a restore that was over before it could be followed, or followed to its end.
  int tellEnd(const std::string& name) {
    std::optional<End> end;
    ended([&](rpc::EndedRestore::Reader restore) {
      if (end.has_value() || name != restore.getInfo().getName().cStr() ||
          before_.count(restore.getInfo().getId()) != 0)
        return;
      view_.take(restore.getInfo());
      view_.take(restore.getStats());
      end = {restore.getReason(), restore.getText().cStr(), restore.getInfo().getMissing()};
    });
    if (!end.has_value())
      throw CommandError(DISCONNECTED, "restore " + name +
                                           " ended while its coordinator was being replaced: whether it was "
                                           "complete is not known");
    if (!options_.record.empty() && !saved_ && recordFailure_.empty())
      recordFailure_ = "working set " + options_.record +
                       " is not written: the restore ended while its coordinator was being replaced";
    return conclude(*end);
  }

  // With one coordinator.
  int followOnce(const std::string& name) {
    while (restore_ == nullptr) {
      if (!isServed(name)) return tellEnd(name);
      try {
        restore_ = session_->restore(name);
      } catch (const kj::Exception& error) {
        if (rpc::refusalOf(error).reason != rpc::Reason::NOT_FOUND) throw;  // over since
      }
    }
    auto& restore = KJ_ASSERT_NONNULL(restore_);
    // Now, since a restore that is over cannot be asked for it.
    if (!options_.record.empty() && !saved_)
      forRecording([&] { recorded_ = session_->wait(restore.workingSetRequest().send()).getWorkingSet(); });
    // Its answer has the figures at the end, which cannot be asked for afterwards.
    auto last = restore.waitCompleteRequest()
                    .send()
                    .then([this](capnp::Response<rpc::Restore::WaitCompleteResults> response) {
                      if (response.getInfo().getAgeNs() > view_.ageNs) view_.take(response.getInfo());
                    })
                    .eagerlyEvaluate([](kj::Exception&&) {});  // an error: the restore was over before
    End end;
    auto ended = restore.waitEndedRequest()
                     .send()
                     .then([&end](capnp::Response<rpc::Restore::WaitEndedResults> response) {
                       end = {response.getReason(), response.getText().cStr(), response.getMissing()};
                     })
                     .fork();
    while (end.reason == rpc::EndReason::NOT_ENDED) {
      look(restore);
      const bool interrupted =
          session_->wait(ended.addBranch()
                             .exclusiveJoin(session_->after(LOOK))
                             .then([] { return false; })
                             .exclusiveJoin(session_->interrupts().next().then([] { return true; })));
      if (interrupted) onInterrupt(restore);
    }
    session_->wait(kj::mv(last));
    saveRecorded();
    return conclude(end);
  }

  void look(rpc::Restore::Client& restore) {
    try {
      auto response = session_->wait(restore.infoRequest().send());
      view_.take(response.getInfo());
      if (response.getInfo().getWorkingSetRefused().size() > 0 && !toldRefusal_) {
        toldRefusal_ = true;
        progress_.say("working set " + options_.workingSet +
                      " is not used: " + response.getInfo().getWorkingSetRefused().cStr());
      }
      view_.take(session_->wait(restore.statsRequest().send()).getStats());
    } catch (const kj::Exception& error) {
      if (isDisconnect(error)) throw;
      return;  // the restore is over: its end comes next
    }
    progress_.show(view_);
    if (view_.phase == rpc::Phase::FAILED) onFailure();
    if (finishing_ && view_.phase == rpc::Phase::COMPLETE)
      session_->wait(restore.detachRequest().send().ignoreResult().catch_([](kj::Exception&&) {}));
  }

  // A failed restore gives its target errors, for as long as a server answers its faults. Without an answer
  // the target would read zeros where pages are missing.
  void onFailure() {
    if (own_ == nullptr)
      throw CommandError(FAILED, "restore " + view_.name + " has failed: " + view_.failure);
    if (toldFailure_) return;
    progress_.say("failed: " + view_.failure + "; the target gets SIGBUS on pages it misses, until it ends");
    toldFailure_ = true;
  }

  // A daemon goes on without us. A service of our own would take the missing pages with it: the first time
  // they are fetched before it ends, the second time the user means it.
  void onInterrupt(rpc::Restore::Client& restore) {
    session_->interrupts().acknowledge();
    look(restore);
    saveRecorded();
    if (own_ == nullptr)
      throw CommandError(FAILED, "interrupted; the server goes on with restore " + view_.name +
                                     " (faultline status, faultline detach)");
    const std::string missing = std::to_string(view_.missing) + " pages are missing";
    if (finishing_ || toldFailure_) {
      own_->hurry();
      throw CommandError(FAILED, "interrupted; " + missing + ", and the target gets " +
                                     (options_.policy.onLost == "kill" ? "killed" : "SIGBUS there"));
    }
    finishing_ = true;
    progress_.say("interrupted; " + missing + " and are fetched first (interrupt again to abandon them)");
    session_->wait(restore.prefaultRequest().send().ignoreResult().catch_([](kj::Exception&&) {}));
  }

  // Saved once: pages fetched after an interrupt were not touched by the target.
  void saveRecorded() {
    KJ_IF_MAYBE (recorded, recorded_) {
      if (saved_) return;
      forRecording([&] {
        const WorkingSet set = fetchWorkingSet(*session_, *recorded);
        writeWorkingSet(options_.record, set);
        saved_ = true;
        recordFailure_.clear();
        progress_.say("recorded in " + options_.record + ": " + describe(set));
      });
    }
  }

  // A recording that fails must not end the service that the target lives by: it is said now, and with the
  // exit code.
  void forRecording(const std::function<void()>& action) {
    try {
      return action();
    } catch (const CommandError& error) {
      recordFailure_ = error.what();
    } catch (const kj::Exception& error) {
      if (isDisconnect(error)) throw;
      recordFailure_ = rpc::refusalOf(error).message;
    }
    progress_.say(recordFailure_);
  }

  int conclude(const End& end) {
    progress_.finish(view_, end.reason, end.text);
    if (end.reason >= rpc::EndReason::PAGE_LOST || end.reason == rpc::EndReason::TARGET_KILLED)
      throw CommandError(FAILED, "restore " + view_.name + " has failed: " + end.text);
    if (view_.poisoned > 0)
      throw CommandError(FAILED, std::to_string(view_.poisoned) + " pages of restore " + view_.name +
                                     " could not be read from " + memory_.name() +
                                     ": the target got SIGBUS on them");
    // A target that has gone needs no more pages; one that was let go without them does.
    if (end.missing > 0 && end.reason != rpc::EndReason::TARGET_GONE)
      throw CommandError(INCOMPLETE, "restore " + view_.name + " ended (" + end.text + ") with " +
                                         std::to_string(end.missing) + " pages missing");
    if (!recordFailure_.empty()) throw CommandError(FAILED, recordFailure_);
    return OK;
  }

  const RestoreOptions& options_;
  Progress progress_;
  Memory memory_;
  kj::AutoCloseFd socket_;  // listening, until the target has come
  std::unique_ptr<OwnService> own_;
  std::optional<Session> session_;
  kj::Maybe<rpc::Listener::Client> listener_;
  kj::Maybe<rpc::Restore::Client> restore_;
  std::optional<WorkingSet> workingSet_;
  kj::Maybe<rpc::RecordedWorkingSet::Client> recorded_;
  std::set<std::uint64_t> before_;  // ids of the restores that the server knew before we listened
  RestoreView view_;                // the last look
  bool finishing_ = false;          // interrupted, and fetching what is missing
  bool toldFailure_ = false;
  bool toldRefusal_ = false;
  bool saved_ = false;  // the recording
  std::string recordFailure_;
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
      "Examples:\n"
      "  faultline restore --memory vm.mem --socket /tmp/vm.sock\n"
      "    and to Firecracker: PUT /snapshot/load "
      "{\"mem_backend\":{\"backend_type\":\"Uffd\",\"backend_path\":\"/tmp/vm.sock\"},...}\n"
      "  faultline restore --memory vm.mem --socket /tmp/vm.sock --no-prefault --keep-serving --json\n"
      "  faultline restore --memory vm.mem --socket /tmp/vm.sock --record-working-set vm.ws\n"
      "  faultline restore --memory vm.mem --socket /tmp/vm.sock --working-set vm.ws\n"
      "  faultline restore --memory diff2.mem --over diff1.mem --over base.mem --socket /tmp/vm.sock\n\n"
      "Interrupted while pages are missing, a service of its own fetches them first; interrupted again, it "
      "gives them up.");
  command->add_option("--memory", options->memory, "The snapshot's memory file")->required();
  addOver(*command, options->over);
  command->add_option("--socket", options->socket, "Where the target connects")->required();
  command->add_option("--name", options->name, "What to call the restore")
      ->check(restoreName())
      ->capture_default_str();
  command->add_option("--control", options->control,
                      std::string("Use the server with this control socket; default: the one at ") +
                          DEFAULT_CONTROL + " if it answers, else a service of our own");
  CLI::Option* prefault = addPolicyOptions(*command, options->policy);
  CLI::Option* workingSet =
      command->add_option("--working-set", options->workingSet,
                          "Populate this recorded working set before everything else, in its order");
  command
      ->add_option("--record-working-set", options->record,
                   "Record what the target touches first and write it to this file at the end, or when "
                   "interrupted;\nwithout background population unless --prefault is given")
      ->excludes(workingSet);
  command->add_flag("--any-user", options->anyUser, "Accept a target of any user, not only root and our own");
  command->add_flag(
      "--keep-refused", options->keepRefused,
      "Let the threads of a target that is refused wait, so that it can try again with the same "
      "userfaultfd; otherwise\nthey get SIGBUS");
  command->add_flag("--json", options->json, "Print JSON, an object a line");
  const std::size_t own = command->get_options().size();
  addServiceOptions(*command, options->service);
  command->footer(std::string(EXIT_CODES) +
                  ".\n            0 also when the target has gone before it had every page");
  command->callback([options, &chosen, prefault, command, own] {
    const auto all = command->get_options();
    for (std::size_t i = own; i < all.size(); i++)
      if (all[i]->count() > 0) options->ofService = all[i]->get_name();
    // A page that is populated before it is touched would be missing from a recording.
    options->policy.recordWorkingSet = !options->record.empty();
    if (options->policy.recordWorkingSet && prefault->count() == 0) options->policy.prefault = false;
    chosen = [options] { return RestoreCommand(*options).run(); };
  });
}

}  // namespace faultline::cli
