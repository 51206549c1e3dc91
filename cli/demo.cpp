#include <capnp/message.h>
#include <kj/common.h>
#include <signal.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/demo_image.h"
#include "cli/demo_server.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/memory_file.h"
#include "cli/own_service.h"
#include "cli/policy_options.h"
#include "cli/restore_view.h"
#include "cli/scratch.h"
#include "cli/service_options.h"
#include "cli/session.h"
#include "cli/socket_file.h"
#include "cli/target_process.h"
#include "rpc/convert.h"
#include "rpc/fd.h"
#include "rpc/hooks.capnp.h"
#include "shmtracker/segment.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct DemoOptions {
  ServiceOptions service;
  std::uint64_t sizeMib = 1024;
  unsigned threads = 4;
  double giveBack = 10;
  std::uint64_t seed = 1;
  std::string directory = "/var/tmp";
  std::string pageSize = "4k";
  bool prefault = true, json = false, nbd = false;
};

constexpr const char* NAME = "demo";  // name of the restore
// How often it is looked whether the target was refused.
constexpr std::chrono::milliseconds LOOK{20};
// How often it is looked whether it is time to kill the server, and how long that is away.
constexpr std::chrono::milliseconds OFTEN{5}, AWAY{300};
// Exit code of faultline-target where the machine is to blame.
constexpr int TARGET_ENVIRONMENT = 3;

std::string decimal(std::uint64_t number) {
  return std::to_string(number);
}

// Interrupts are noted, not acted on, until there is an event loop.
bool interruptPending() {
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1 ||
         sigismember(&pending, SIGHUP) == 1;
}

[[noreturn]] void interrupted() {
  throw CommandError(FAILED, "interrupted");
}

// --- what is shown ---

void row(const char* what, const std::string& value) {
  printf("  %-46s %s\n", what, value.c_str());
}

void printTarget(const json& target) {
  auto number = [&target](const char* key) { return decimal(target.value(key, std::uint64_t{0})); };
  row("pages compared, every byte", number("pages"));
  row("  holding the snapshot's bytes", number("from_source"));
  row("  zero in the snapshot", number("zero_in_source"));
  row("  given back (MADV_DONTNEED), reading as zeros", number("removed"));
}

void printServer(const RestoreView& view) {
  row("how the server brought them", decimal(view.copied + view.zeroed + view.zeroedRemoved));
  row("  copied from the snapshot", decimal(view.copied));
  row("  as zeros, nothing copied from it", decimal(view.zeroed));
  row("  as zeros after a removal", decimal(view.zeroedRemoved));
  row("  of these in the background, before any fault", decimal(view.prefaulted));
  row("  of these because a thread waited for them", decimal(view.byFault()));
  row("removals told by the kernel", decimal(view.removes));
}

void printSpeed(const json& target) {
  auto ns = [&target](const char* key) { return humanNs(target.value(key, std::uint64_t{0})); };
  row("faults a second, as the target saw it",
      decimal(static_cast<std::uint64_t>(target.value("faults_per_second", 0.0))));
  row("fault latency p50 / p99 / p99.9",
      ns("fault_p50_ns") + " / " + ns("fault_p99_ns") + " / " + ns("fault_p999_ns"));
  row("time to the first page", ns("first_page_ns"));
}

void printTable(const DemoOptions& options, const json& target, const RestoreView& view) {
  printf("\nfaultline demo: %llu MiB, %u shards, %u threads, %s pages\n",
         static_cast<unsigned long long>(options.sizeMib), options.service.shards, options.threads,
         options.pageSize.c_str());
  printTarget(target);
  printServer(view);
  printSpeed(target);
  char overhead[64];
  snprintf(overhead, sizeof overhead, "%s (%.3f %% of the memory)", humanBytes(view.segmentBytes).c_str(),
           100.0 * static_cast<double>(view.segmentBytes) / static_cast<double>(options.sizeMib << 20));
  row("memory for tracker, journal and counters", overhead);
  row("verdict", target.value("error", std::string("every byte is right")));
}

void printJson(json target, const RestoreView& view) {
  target["copied"] = view.copied;
  target["zeroed"] = view.zeroed;
  target["zeroed_removed"] = view.zeroedRemoved;
  target["prefaulted"] = view.prefaulted;
  target["by_fault"] = view.byFault();
  target["faults_taken"] = view.faults;
  target["removes"] = view.removes;
  target["segment_bytes"] = view.segmentBytes;
  printf("%s\n", target.dump(2).c_str());
}

// --- what is done ---

class Demo {
 public:
  explicit Demo(const DemoOptions& options)
      : options_(options),
        scratch_(options.directory, "choose another with --dir"),
        image_(scratch_.path() + "/memory"),
        socket_(scratch_.path() + "/socket") {}

  int run() {
    requireUserfaultfd();
    makeImage();
    if (options_.nbd) serveByNbd();
    ServiceOptions withHooks = options_.service;
    withHooks.testHooks = true;  // for holdSegment()
    OwnService service(withHooks);
    session_.emplace(service.control());
    KJ_DEFER({  // before the event loop that they live in
      reporting_ = nullptr;
      restore_ = nullptr;
      listener_ = nullptr;
      target_.reset();
      session_.reset();
    });
    listen();
    startTarget();
    awaitTarget();
    holdSegment();
    watch();
    return judge();
  }

 private:
  void say(const std::string& text) const {
    if (!options_.json) printf("%s\n", text.c_str());
    fflush(stdout);
  }

  void makeImage() {
    say("making a memory image of " + decimal(options_.sizeMib) + " MiB from this machine's own files ...");
    const DemoImage made = makeDemoImage(image_, options_.sizeMib << 20, options_.seed, [](std::uint64_t) {
      if (interruptPending()) interrupted();
    });
    say("  " + decimal(made.fromFiles) + " pages of programs and libraries, " + decimal(made.zeros) +
        " zero, " + decimal(made.holes) + " holes, " + decimal(made.random) + " random");
  }

  void serveByNbd() {
    server_.emplace(image_, scratch_.path() + "/nbd");
    say("serving that file by nbdkit, at " + server_->uri() + " ...");
  }

  void listen() {
    auto request = session_->coordinator().listenRequest();
    auto spec = request.initSpec();
    spec.setName(NAME);
    spec.initPolicy().setPrefault(options_.prefault);
    spec.getPolicy().setKeepServing(true);  // kept until the target has looked at everything twice
    request.setSocket(rpc::makeFd(socket_.take()));
    fill(request.initSource(), openStack({server_.has_value() ? server_->uri() : image_}));
    listener_ = session_->wait(request.send()).getListener();
  }

  void startTarget() {
    say("serving it with " + decimal(options_.service.shards) + " shards to a target in another process ...");
    target_.emplace(session_->client().io(),
                    std::vector<std::string>{"--json", "--timeout", "3600", "--socket", socket_.path(),
                                             "--image", image_, "--threads", decimal(options_.threads),
                                             "--give-back", std::to_string(options_.giveBack), "--page-size",
                                             options_.pageSize, "--seed", decimal(options_.seed)});
    reporting_ = target_->whenReporting().fork();
  }

  enum class Event { tick, reporting, interrupted };

  // Waits until `promise` resolves, the target reports, or the user has enough.
  Event next(kj::Promise<void> promise) {
    return session_->wait(
        promise.then([] { return Event::tick; })
            .exclusiveJoin(reporting_.addBranch().then([] { return Event::reporting; }))
            .exclusiveJoin(session_->interrupts().next().then([] { return Event::interrupted; })));
  }

  // Waits until the target's handshake is through.
  void awaitTarget() {
    auto& listener = KJ_ASSERT_NONNULL(listener_);
    auto accepted = listener.nextRestoreRequest()
                        .send()
                        .then([this](capnp::Response<rpc::Listener::NextRestoreResults> response) {
                          restore_ = response.getRestore();
                        })
                        .fork();
    while (restore_ == nullptr) {
      const Event event = next(accepted.addBranch().exclusiveJoin(session_->after(LOOK)));
      if (event == Event::interrupted) interrupted();
      if (event == Event::reporting) return;  // the target ended without being served
      auto error = session_->wait(listener.lastErrorRequest().send());
      if (error.getRefused() > 0)
        throw CommandError(FAILED,
                           std::string("the server refused the target: ") + error.getMessage().cStr());
    }
  }

  // A restore ends with its target, and what can be asked of it with the restore. Its counters are read from
  // the shared memory itself, which we hold.
  void holdSegment() {
    if (restore_ == nullptr) return;
    auto hooks =
        session_->wait(session_->coordinator().castAs<rpc::TestCoordinator>().testHooksRequest().send())
            .getHooks();
    auto request = hooks.segmentRequest();
    request.setRestore(NAME);
    auto response = session_->wait(request.send());
    segment_.emplace(
        shm::Segment::attach(session_->wait(rpc::requireFd(response.getSegment(), "segment")).get()));
  }

  void watch() {
    Event event = Event::tick;
    if (server_.has_value() && segment_.has_value()) event = killServer();
    if (event == Event::tick) event = next(kj::NEVER_DONE);
    if (event == Event::interrupted) interrupted();
  }

  // Pages that are in place.
  std::uint64_t brought() {
    const RestoreView view = figures();
    return view.copied + view.zeroed;
  }

  // Twice, while pages are asked for: at a quarter of them, and at the half.
  Event killServer() {
    const std::uint64_t pages = segment_->pages().pageCount();
    for (const std::uint64_t part : {pages / 4, pages / 2}) {
      while (brought() < part)
        if (const Event event = next(session_->after(OFTEN)); event != Event::tick) return event;
      server_->kill();
      kills_++;
      say("  nbdkit is killed (SIGKILL), and started again after " + decimal(AWAY.count()) + " ms ...");
      const Event event = next(session_->after(AWAY));
      server_->start();
      if (event != Event::tick) return event;
    }
    return Event::tick;
  }

  RestoreView figures() {
    RestoreView view;
    if (!segment_.has_value()) return view;
    capnp::MallocMessageBuilder message;
    auto stats = message.initRoot<rpc::RestoreStats>();
    rpc::fill(stats, segment_->counters());
    auto shards = stats.initShards(segment_->activeShards());
    for (std::uint32_t i = 0; i < shards.size(); i++) rpc::fill(shards[i], segment_->shardCounters(i));
    view.take(stats.asReader());
    view.segmentBytes = segment_->bytes();
    return view;
  }

  int judge() {
    const std::string report = session_->wait(target_->report());
    const int code = target_->wait();
    const json target = json::parse(report, nullptr, false);
    if (!target.is_object())
      throw CommandError(code == TARGET_ENVIRONMENT ? ENVIRONMENT : FAILED,
                         "the target did not report; its exit code was " + std::to_string(code));
    if (options_.json)
      printJson(withKills(target), figures());
    else
      printTable(options_, target, figures());
    return code == 0 ? OK : FAILED;
  }

  json withKills(json target) const {
    if (options_.nbd) target["nbd_kills"] = kills_;
    return target;
  }

  const DemoOptions& options_;
  const ScratchDirectory scratch_;
  const std::string image_;
  SocketFile socket_;
  std::optional<DemoServer> server_;
  unsigned kills_ = 0;  // of it
  std::optional<Session> session_;
  kj::Maybe<rpc::Listener::Client> listener_;
  kj::Maybe<rpc::Restore::Client> restore_;
  std::optional<TargetProcess> target_;
  kj::ForkedPromise<void> reporting_ = nullptr;
  std::optional<shm::Segment> segment_;
};

int demo(const DemoOptions& options) {
  if (options.sizeMib % 2 != 0)
    throw CommandError(USAGE, "--size-mib " + decimal(options.sizeMib) + " is odd: huge pages have 2 MiB");
  Interrupts::capture();
  return Demo(options).run();
}

}  // namespace

void addDemo(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<DemoOptions>();
  CLI::App* command =
      app.add_subcommand("demo", "Show it: restore a real image in another process and compare every byte");
  command->description(
      "Make a memory image from this machine's own files, serve it to a target in another process which "
      "faults it in at\n"
      "random from several threads while a background prefault runs and while it gives ranges back, compare "
      "every page,\n"
      "and print what happened.\n\n"
      "Examples:\n"
      "  faultline demo\n"
      "  faultline demo --size-mib 4096 --shards 8 --threads 16 --no-prefault\n"
      "  faultline demo --nbd\n"
      "  faultline demo --json | jq .fault_p99_ns");
  command->add_option("--size-mib", options->sizeMib, "Size of the image in MiB (even)")
      ->check(CLI::Range(2u, 1u << 20))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads of the target")
      ->check(CLI::Range(1u, 256u))
      ->capture_default_str();
  command->add_option("--give-back", options->giveBack, "Percent of the pages given back meanwhile")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Of everything random")->capture_default_str();
  command->add_option("--dir", options->directory, "Where to make the image")->capture_default_str();
  command->add_option("--page-size", options->pageSize, "4k, or 2m (hugetlb)")
      ->transform(CLI::IsMember({"4k", "2m"}, CLI::ignore_case))
      ->capture_default_str();
  command->add_flag("--prefault,!--no-prefault", options->prefault,
                    "Populate in the background meanwhile (the default), or only by faults");
  command->add_flag("--nbd", options->nbd,
                    "Restore over a real nbdkit, which is killed twice in the middle (docs/nbd.md)");
  command->add_flag("--json", options->json, "Print one JSON object");
  addServiceOptions(*command, options->service);
  command->footer(std::string(EXIT_CODES) +
                  ".\n            1 also for a page that is not right: it is named");
  command->callback([options, &chosen] { chosen = [options] { return demo(*options); }; });
}

}  // namespace faultline::cli
