// faultline-target: restores an image in its own memory by really touching it, and compares every byte.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>

#include "client/monitor.h"
#include "client/report.h"
#include "client/target_run.h"

namespace {

using namespace faultline::target;

struct Options {
  RunOptions run;
  unsigned timeout = 0;
  Format format = Format::text;
};

constexpr const char* DESCRIPTION =
    "faultline-target restores a memory image in its own address space through a page server: it maps the "
    "memory,\n"
    "does Firecracker's handshake, touches every page from several threads and compares every byte, "
    "twice.\n\n"
    "Example: faultline restore --memory vm.mem --socket /tmp/vm.sock &\n"
    "         faultline-target --image vm.mem --socket /tmp/vm.sock --threads 8 --give-back 10";

constexpr const char* FOOTER =
    "Exit codes: 0 every byte right, 1 mismatch (it is named), 2 wrong usage or image,\n"
    "            3 not possible on this machine (no userfaultfd, no huge pages), or no server there,\n"
    "            4 not done in time (--timeout): has the server gone?, 5 a page was poisoned (SIGBUS)";

void addOptions(CLI::App& app, RunOptions& run, std::string& pageSize, std::string& order) {
  app.add_option("--socket", run.socket, "The page server's handshake socket")->required();
  app.add_option("--image", run.image, "The memory file that is served, to compare with")->required();
  app.add_option("--threads", run.threads, "Threads that touch pages")
      ->check(CLI::Range(1u, 256u))
      ->capture_default_str();
  app.add_option("--page-size", pageSize, "4k, or 2m (hugetlb)")
      ->transform(CLI::IsMember({"4k", "2m"}, CLI::ignore_case))
      ->capture_default_str();
  app.add_option("--order", order, "random or sequential")
      ->check(CLI::IsMember({"random", "sequential"}))
      ->capture_default_str();
  app.add_option("--regions", run.regions,
                 "Cut the image into so many regions, mapped in an order of their own")
      ->check(CLI::Range(1u, 512u))
      ->capture_default_str();
  app.add_option("--give-back", run.giveBackPercent,
                 "Percent of the pages to give back meanwhile (MADV_DONTNEED), by one more thread")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--write", run.writePercent, "Percent of the pages to write, each after its first look")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_flag_callback(
      "--no-remove", [&run] { run.remove = false; }, "Do not ask for REMOVE events (not with --give-back)");
  app.add_option("--stop-after", run.stopAfter,
                 "Stop the whole process (SIGSTOP) once so many pages have been touched: time to look, or to "
                 "break something; SIGCONT goes on");
  app.add_option("--seed", run.seed, "Of everything random: what is done, though not how threads interleave")
      ->capture_default_str();
}

int runTarget(const Options& options) {
  Run run(options.run);
  MonitorOptions watching;
  watching.timeoutSeconds = options.timeout;
  watching.showProgress = isatty(STDERR_FILENO) == 1;
  watching.onTimeout = [&run, &options] {
    _exit(reportTimeout(run, options.run, options.timeout, options.format));
  };
  RunResult result;
  {
    const Monitor monitor(run, watching);
    result = run.go();
  }
  return report(run, options.run, result, options.format);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{DESCRIPTION};
  app.footer(FOOTER);
  Options options;
  bool json = false;
  std::string pageSize = "4k", order = "random";
  addOptions(app, options.run, pageSize, order);
  app.add_option("--timeout", options.timeout,
                 "Give up after so many seconds and say which pages are waited for; 0: never")
      ->check(CLI::Range(0u, 1'000'000u))
      ->capture_default_str();
  app.add_flag("--json", json, "Print one JSON object");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? OK : USAGE;
  }
  options.run.pageSize = pageSize == "4k" ? 4096 : 2u << 20;
  options.run.order = order == "random" ? Order::random : Order::sequential;
  options.format = json ? Format::json : Format::text;
  if (options.timeout > 0)
    options.run.connectTimeoutMs = std::min(options.run.connectTimeoutMs, options.timeout * 1000);

  try {
    return runTarget(options);
  } catch (const UsageError& error) {
    fprintf(stderr, "faultline-target: %s\n", error.what());
    return USAGE;
  } catch (const std::exception& error) {  // EnvironmentError, or no memory, or no threads
    fprintf(stderr, "faultline-target: %s\n", error.what());
    return ENVIRONMENT;
  }
}
