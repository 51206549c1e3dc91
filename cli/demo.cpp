#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/common.h"
#include "cli/demo_image.h"
#include "cli/own_service.h"
#include "rpc/fd.h"
#include "rpc/process.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

struct DemoOptions {
  ServiceOptions service;
  std::uint64_t sizeMib = 1024;
  unsigned threads = 4;
  double giveBack = 5;
  std::uint64_t seed = 1;
  std::string directory = "/var/tmp";
  std::string pageSize = "4k";
  bool prefault = true, json = false;
};

// A directory that goes with its content.
struct Scratch {
  explicit Scratch(const std::string& parent) : path(parent + "/faultline-demo-XXXXXX") {
    if (mkdtemp(path.data()) == nullptr)
      throw CommandError(ENVIRONMENT, "cannot make a directory in " + parent + "; choose another with --dir");
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::string path;
};

// Runs the target program; its exit code and its JSON.
std::pair<int, json> runTarget(const DemoOptions& options, const std::string& image,
                               const std::string& socket) {
  const std::string command = rpc::siblingExecutable("faultline-target") + " --json --timeout 600 --socket " +
                              socket + " --image " + image + " --threads " + std::to_string(options.threads) +
                              " --give-back " + std::to_string(options.giveBack) + " --page-size " +
                              options.pageSize + " --seed " + std::to_string(options.seed);
  FILE* pipe = popen(command.c_str(), "re");
  if (pipe == nullptr) throw CommandError(ENVIRONMENT, "cannot start faultline-target");
  std::string text;
  std::array<char, 4096> buffer;
  while (const std::size_t got = fread(buffer.data(), 1, buffer.size(), pipe))
    text.append(buffer.data(), got);
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          json::parse(text, nullptr, false)};
}

struct Sums {
  std::uint64_t copied = 0, zeroed = 0, zeroedRemoved = 0, prefaulted = 0, faults = 0, removes = 0,
                segment = 0;
};

Sums sumsOf(rpc::ControlClient& client, rpc::Restore::Client& restore) {
  Sums sums;
  auto response = client.wait(restore.statsRequest().send());
  sums.faults = response.getStats().getFaults();
  sums.removes = response.getStats().getRemoves();
  for (auto s : response.getStats().getShards()) {
    sums.copied += s.getCopied();
    sums.zeroed += s.getZeroed();
    sums.zeroedRemoved += s.getZeroedRemoved();
    sums.prefaulted += s.getPrefaulted();
  }
  sums.segment = client.wait(restore.infoRequest().send()).getInfo().getSegmentBytes();
  return sums;
}

void printTable(const DemoOptions& options, const json& t, const Sums& s) {
  auto number = [&t](const char* key) { return t.value(key, 0.0); };
  auto row = [](const char* what, const std::string& value) { printf("  %-46s %s\n", what, value.c_str()); };
  auto pages = [](double n) { return std::to_string(static_cast<std::uint64_t>(n)); };
  auto us = [](double ns) { return humanNs(static_cast<std::uint64_t>(ns)); };
  printf("\nfaultline demo: %llu MiB, %u shards, %u threads, %s pages\n",
         static_cast<unsigned long long>(options.sizeMib), options.service.shards, options.threads,
         options.pageSize.c_str());
  row("pages compared, every byte", pages(number("pages")));
  row("  holding the snapshot's bytes", pages(number("from_source")));
  row("  zero in the snapshot", pages(number("zero_in_source")));
  row("  given back (MADV_DONTNEED), reading as zeros", pages(number("removed")));
  row("how they came: copied from the snapshot", std::to_string(s.copied));
  row("  as zero pages, nothing read", std::to_string(s.zeroed));
  row("  as zeros after a removal", std::to_string(s.zeroedRemoved));
  row("  of these in the background, before any fault", std::to_string(s.prefaulted));
  row("faults the server took, removals", std::to_string(s.faults) + ", " + std::to_string(s.removes));
  row("faults a second, as the target saw it", pages(number("faults_per_second")));
  row("fault latency p50 / p99 / p99.9",
      us(number("fault_p50_ns")) + " / " + us(number("fault_p99_ns")) + " / " + us(number("fault_p999_ns")));
  row("time to the first page", us(number("first_page_ns")));
  char overhead[64];
  snprintf(overhead, sizeof overhead, "%s (%.3f %% of the memory)", humanBytes(s.segment).c_str(),
           100.0 * static_cast<double>(s.segment) / static_cast<double>(options.sizeMib << 20));
  row("memory for tracker, journal and counters", overhead);
  row("verdict", t.value("error", std::string("every byte is right")));
}

int demo(const DemoOptions& options) {
  requireUserfaultfd();
  Scratch scratch(options.directory);
  const std::string image = scratch.path + "/memory";
  const std::string socketPath = scratch.path + "/socket";
  if (!options.json)
    printf("making a memory image of %llu MiB from this machine's own files ...\n",
           static_cast<unsigned long long>(options.sizeMib));
  fflush(stdout);
  const DemoImage made = makeDemoImage(image, options.sizeMib << 20, options.seed, [](std::uint64_t) {});
  if (!options.json)
    printf(
        "  %llu pages of programs and libraries, %llu zero, %llu holes, %llu random\nserving it with %u "
        "shards ...\n",
        static_cast<unsigned long long>(made.fromFiles), static_cast<unsigned long long>(made.zeros),
        static_cast<unsigned long long>(made.holes), static_cast<unsigned long long>(made.random),
        options.service.shards);
  fflush(stdout);

  OwnService service(options.service);
  rpc::ControlClient client(service.control());
  auto request = client.coordinator().listenRequest();
  auto spec = request.initSpec();
  spec.setName("demo");
  spec.setSourceName(image.c_str());
  spec.setPrefault(options.prefault);
  spec.setKeepServing(true);  // until the target has looked at everything twice
  request.setSocket(rpc::makeFd(makeSocket(socketPath)));
  request.setSource(rpc::makeFd(openMemory(image)));
  auto listener = client.wait(request.send()).getListener();
  auto next = listener.nextRestoreRequest().send();

  // The restore goes with the target, so its figures are taken in between, until it has gone.
  std::pair<int, json> result;
  Sums sums;
  int done[2];
  KJ_SYSCALL(pipe2(done, O_CLOEXEC));
  const pid_t runner = fork();
  if (runner == 0) {
    result = runTarget(options, image, socketPath);
    const std::string text =
        std::to_string(result.first) + " " + (result.second.is_discarded() ? "null" : result.second.dump());
    [[maybe_unused]] const auto n = write(done[1], text.data(), text.size());
    _exit(0);
  }
  close(done[1]);
  kj::AutoCloseFd reading(done[0]);
  auto restore = client
                     .wait(next.exclusiveJoin(
                         kj::Promise<capnp::Response<rpc::Listener::NextRestoreResults>>(kj::NEVER_DONE)))
                     .getRestore();
  auto ended = restore.waitEndedRequest().send().ignoreResult().then([] { return true; }).fork();
  for (bool over = false; !over;) {
    auto failure = kj::runCatchingExceptions([&] { sums = sumsOf(client, restore); });
    if (failure != nullptr) break;
    auto tick = client.io().provider->getTimer().afterDelay(20 * kj::MILLISECONDS).then([] { return false; });
    over = client.wait(ended.addBranch().exclusiveJoin(kj::mv(tick)));
  }
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t got; (got = read(reading.get(), buffer.data(), buffer.size())) > 0;)
    text.append(buffer.data(), static_cast<std::size_t>(got));
  waitpid(runner, nullptr, 0);
  unlink(socketPath.c_str());
  const std::size_t space = text.find(' ');
  const int code = space == std::string::npos ? FAILED : std::stoi(text);
  json target = json::parse(space == std::string::npos ? "null" : text.substr(space + 1), nullptr, false);
  if (!target.is_object())
    throw CommandError(FAILED, "the target did not report; its exit code was " + std::to_string(code));
  if (options.json) {
    target["copied"] = sums.copied;
    target["zeroed"] = sums.zeroed;
    target["zeroed_removed"] = sums.zeroedRemoved;
    target["prefaulted"] = sums.prefaulted;
    target["faults_taken"] = sums.faults;
    target["segment_bytes"] = sums.segment;
    printf("%s\n", target.dump(2).c_str());
  } else {
    printTable(options, target, sums);
  }
  return code == 0 ? OK : FAILED;
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
      "and print what happened.");
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
      ->check(CLI::IsMember({"4k", "2m"}))
      ->capture_default_str();
  command->add_flag("!--no-prefault", options->prefault, "Only faults, no background population");
  command->add_flag("--json", options->json, "Print one JSON object");
  addServiceOptions(*command, options->service);
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return demo(*options); }; });
}

}  // namespace faultline::cli
