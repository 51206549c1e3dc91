// faultline-target: restores an image in its own memory by really touching it, and compares every byte.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "client/target_run.h"

namespace {

using namespace faultline::target;

enum Exit { OK = 0, MISMATCH = 1, USAGE = 2, ENVIRONMENT = 3, TIMEOUT = 4, POISONED = 5 };

std::uint64_t quantile(const std::vector<std::uint32_t>& sorted, double fraction) {
  if (sorted.empty()) return 0;
  return sorted[std::min(sorted.size() - 1,
                         static_cast<std::size_t>(fraction * static_cast<double>(sorted.size())))];
}

nlohmann::json toJson(RunResult& result) {
  std::sort(result.latencies.begin(), result.latencies.end());
  nlohmann::json out{{"pages", result.pages},
                     {"from_source", result.fromSource},
                     {"zero_in_source", result.zeroInSource},
                     {"removed", result.removed},
                     {"written", result.written},
                     {"seconds", result.seconds},
                     {"touches_per_second", static_cast<double>(result.latencies.size()) / result.seconds},
                     {"first_page_ns", result.firstPageNs},
                     {"p50_ns", quantile(result.latencies, 0.5)},
                     {"p99_ns", quantile(result.latencies, 0.99)},
                     {"p999_ns", quantile(result.latencies, 0.999)}};
  // A touch that did not fault takes well under a microsecond: the rest waited for a page.
  const auto waited = std::lower_bound(result.latencies.begin(), result.latencies.end(), 1500u);
  const std::vector<std::uint32_t> faults(waited, result.latencies.end());
  out["faults"] = faults.size();
  out["fault_p50_ns"] = quantile(faults, 0.5);
  out["fault_p99_ns"] = quantile(faults, 0.99);
  out["fault_p999_ns"] = quantile(faults, 0.999);
  out["faults_per_second"] = static_cast<double>(faults.size()) / result.seconds;
  out["verdict"] = result.mismatch ? "mismatch" : result.poisonedPage ? "poisoned" : "ok";
  return out;
}

int report(const RunOptions& options, RunResult& result, bool asJson) {
  auto out = toJson(result);
  std::string complaint;
  int code = OK;
  if (result.mismatch) {
    const Mismatch& m = *result.mismatch;
    char text[256];
    snprintf(text, sizeof text, "page %llu (image offset %llu), byte %llu: expected 0x%02x, got 0x%02x",
             static_cast<unsigned long long>(m.page),
             static_cast<unsigned long long>(m.page * options.pageSize),
             static_cast<unsigned long long>(m.byte), m.expected, m.got);
    complaint = text;
    code = MISMATCH;
  } else if (result.poisonedPage) {
    complaint = "page " + std::to_string(*result.poisonedPage) +
                " is poisoned (SIGBUS): the server could not give it";
    code = POISONED;
  }
  if (!complaint.empty()) out["error"] = complaint;
  if (asJson) {
    printf("%s\n", out.dump().c_str());
    return code;
  }
  printf(
      "pages            %10llu\n  from the source %10llu\n  zero in it      %10llu\n  given back      "
      "%10llu\n"
      "  written         %10llu\n",
      static_cast<unsigned long long>(result.pages), static_cast<unsigned long long>(result.fromSource),
      static_cast<unsigned long long>(result.zeroInSource), static_cast<unsigned long long>(result.removed),
      static_cast<unsigned long long>(result.written));
  printf("faults           %10llu, %.0f a second\n", out["faults"].get<unsigned long long>(),
         out["faults_per_second"].get<double>());
  printf("fault latency    p50 %.1f us, p99 %.1f us, p99.9 %.1f us\n",
         out["fault_p50_ns"].get<double>() / 1e3, out["fault_p99_ns"].get<double>() / 1e3,
         out["fault_p999_ns"].get<double>() / 1e3);
  printf("first page after %10.2f ms\n", static_cast<double>(result.firstPageNs) / 1e6);
  printf("verdict          %s\n", complaint.empty() ? "every byte is right" : complaint.c_str());
  return code;
}

// Ends the process when the time is over: a fault that nobody answers can't be interrupted otherwise.
class Watchdog {
 public:
  Watchdog(unsigned seconds, const std::atomic<std::uint64_t>& done) {
    if (seconds == 0) return;
    thread_ = std::thread([this, seconds, &done] {
      std::unique_lock lock(mutex_);
      if (over_.wait_for(lock, std::chrono::seconds(seconds), [this] { return ended_; })) return;
      fprintf(stderr, "faultline-target: not done after %u s, %llu pages judged: has the server gone?\n",
              seconds, static_cast<unsigned long long>(done.load()));
      _exit(TIMEOUT);
    });
  }
  ~Watchdog() {
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
    }
    over_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "faultline-target restores a memory image in its own address space through a page server: it maps the "
      "memory,\n"
      "does Firecracker's handshake, touches every page from several threads and compares every byte.\n\n"
      "Example: faultline restore --memory vm.mem --socket /tmp/vm.sock &\n"
      "         faultline-target --image vm.mem --socket /tmp/vm.sock --threads 8 --give-back 10\n\n"
      "Exit codes: 0 every byte right, 1 mismatch, 2 usage, 3 not possible on this machine or no server,\n"
      "            4 not done in time, 5 a page was poisoned"};
  RunOptions options;
  unsigned timeout = 0;
  bool json = false;
  std::string pageSize = "4k", order = "random";
  app.add_option("--socket", options.socket, "The page server's handshake socket")->required();
  app.add_option("--image", options.image, "The memory file that is served, to compare with")->required();
  app.add_option("--threads", options.threads, "Threads that touch pages")->check(CLI::Range(1u, 256u));
  app.add_option("--page-size", pageSize, "4k or 2m (hugetlb)")->check(CLI::IsMember({"4k", "2m"}));
  app.add_option("--order", order, "random or sequential")->check(CLI::IsMember({"random", "sequential"}));
  app.add_option("--regions", options.regions, "Split the memory into so many regions")
      ->check(CLI::Range(1u, 512u));
  app.add_option("--give-back", options.giveBackPercent,
                 "Give so many percent of the pages back meanwhile (MADV_DONTNEED)")
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--write", options.writePercent, "Write so many percent of the pages")
      ->check(CLI::Range(0.0, 100.0));
  app.add_flag("!--no-remove", options.remove, "Do not ask for REMOVE events");
  app.add_option("--seed", options.seed, "Of everything random");
  app.add_option("--timeout", timeout, "Give up after so many seconds; 0: never");
  app.add_flag("--json", json, "Print one JSON object");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? OK : USAGE;
  }
  options.pageSize = pageSize == "4k" ? 4096 : 2u << 20;
  options.order = order == "random" ? Order::random : Order::sequential;

  std::atomic<std::uint64_t> done{0};
  Watchdog watchdog(timeout, done);
  try {
    RunResult result = run(options, done);
    return report(options, result, json);
  } catch (const EnvironmentError& error) {
    fprintf(stderr, "faultline-target: %s\n", error.what());
    return ENVIRONMENT;
  }
}
