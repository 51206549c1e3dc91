#include "cli/service_options.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>

#include "cli/errors.h"
#include "process/cpu_list.h"
#include "process/log.h"
#include "shmtracker/layout.h"

namespace faultline::cli {

namespace {

// For a CLI::App's check().
std::string canSetCpuLatency(const std::string&) {
  if (access("/dev/cpu_dma_latency", W_OK) == 0) return "";
  return std::string("/dev/cpu_dma_latency cannot be written: ") + std::strerror(errno) +
         "; it takes root (and DeviceAllow= in a service). Leave the option out where that is not to be had";
}

// systemd.exec(5), CacheDirectory=. /var/tmp is on a disk as a rule, which /tmp need not be.
std::string cacheDirectoryOf(const ServiceOptions& options) {
  if (!options.cacheDirectory.empty()) return options.cacheDirectory;
  const char* given = getenv("CACHE_DIRECTORY");
  return given != nullptr && *given == '/' ? given : "/var/tmp";
}

}  // namespace

void requireUserfaultfd() {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (fd >= 0) {
    close(fd);
    return;
  }
  if (access("/dev/userfaultfd", R_OK | W_OK) == 0) return;
  throw CommandError(ENVIRONMENT,
                     std::string("userfaultfd can't be used here: ") + std::strerror(errno) +
                         "; give this user access to /dev/userfaultfd, or CAP_SYS_PTRACE, or set sysctl "
                         "vm.unprivileged_userfaultfd=1");
}

void logToStderr() {
  // Child processes log to stdout, too.
  dup2(STDERR_FILENO, STDOUT_FILENO);
  process::setUpLog("faultline", process::LogStream::err);
}

void setLogLevel(const std::string& level) {
  spdlog::set_level(spdlog::level::from_str(level));
}

std::vector<std::string> ServiceOptions::coordinatorArguments() const {
  std::vector<std::string> arguments = {"--shards",
                                        std::to_string(shards),
                                        "--owners",
                                        std::to_string(owners),
                                        "--workers",
                                        std::to_string(workers),
                                        "--lock-deadline-ms",
                                        std::to_string(lockDeadlineMs),
                                        "--watchdog-ms",
                                        std::to_string(watchdogMs),
                                        "--handshake-timeout-ms",
                                        std::to_string(handshakeTimeoutMs),
                                        "--source-patience-ms",
                                        std::to_string(sourcePatienceMs),
                                        "--max-restores",
                                        std::to_string(maxRestores),
                                        "--stop-limit-s",
                                        std::to_string(stopLimitS),
                                        "--cache-dir",
                                        cacheDirectoryOf(*this),
                                        "--cache-limit",
                                        std::to_string(cacheBytes),
                                        "--log-level",
                                        logLevel};
  if (!cpus.empty()) arguments.insert(arguments.end(), {"--cpus", cpus});
  if (populationRate != 0)
    arguments.insert(arguments.end(), {"--population-rate", std::to_string(populationRate)});
  if (fetchRate != 0) arguments.insert(arguments.end(), {"--fetch-rate", std::to_string(fetchRate)});
  if (populations != 0) arguments.insert(arguments.end(), {"--populations", std::to_string(populations)});
  if (cpuLatencyUs.has_value()) {
    arguments.emplace_back("--cpu-latency-us");
    arguments.push_back(std::to_string(*cpuLatencyUs));
  }
  if (testHooks) arguments.emplace_back("--test-hooks");
  return arguments;
}

void addServiceOptions(CLI::App& command, ServiceOptions& options) {
  command.add_option("--shards", options.shards, "Shard processes that copy pages (1 to 64)")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  command
      .add_option("--owners", options.owners,
                  "Shards that the pages of a restore are dealt out to, not the same ones for every restore "
                  "(1 to 64);\n0: as many as there are CPUs")
      ->check(CLI::Range(0u, 64u))
      ->capture_default_str();
  command
      .add_option("--cpus", options.cpus,
                  "CPUs that coordinator and shards run on, as in 0-3,8; default: all (docs/operating.md)")
      ->check(process::whyNotCpuList);
  command
      .add_option("--workers", options.workers,
                  "Copy workers a shard (1 to " + std::to_string(shm::MAX_COPY_WORKERS) +
                      "); 0: from the number of CPUs")
      ->check(CLI::Range(0u, shm::MAX_COPY_WORKERS))
      ->capture_default_str();
  command
      .add_option("--lock-deadline-ms", options.lockDeadlineMs,
                  "A shard that blocks removals for longer is killed and replaced")
      ->check(CLI::Range(10u, 600'000u))
      ->capture_default_str();
  command
      .add_option("--watchdog-ms", options.watchdogMs,
                  "A coordinator or a shard that does not answer for longer is killed and replaced")
      ->check(CLI::Range(40u, 600'000u))
      ->capture_default_str();
  command
      .add_option("--handshake-timeout-ms", options.handshakeTimeoutMs,
                  "How long a target may take for its handshake")
      ->check(CLI::Range(10u, 600'000u))
      ->capture_default_str();
  command
      .add_option(
          "--source-patience", options.sourcePatienceMs,
          "How long reads of a page may go on failing (EIO, ETIMEDOUT, ...) before it is given up: 500ms, "
          "30s, 5min, 1h;\n0s: at the first error. A read that takes long does not fail")
      ->transform(CLI::AsNumberWithUnit(
          std::map<std::string, std::uint64_t>{{"ms", 1}, {"s", 1000}, {"min", 60'000}, {"h", 3'600'000}},
          CLI::AsNumberWithUnit::UNIT_REQUIRED, "TIME"))
      ->default_str("30s");
  command
      .add_option("--cache-dir", options.cacheDirectory,
                  "Folder in which what is fetched is kept while it is served (docs/fetcher.md); default: "
                  "$CACHE_DIRECTORY, else /var/tmp")
      ->check(CLI::ExistingDirectory);
  command
      .add_option(
          "--cache-size", options.cacheBytes,
          "Bytes that this may take, as in 512M or 64G: what comes beyond is served without being kept")
      ->transform(CLI::AsSizeValue(false))
      ->default_str("16G");
  command
      .add_option(
          "--fetch-rate", options.fetchRate,
          "Bytes a second, unpacked, that are fetched for what no fault waits for: populations and working "
          "sets of\nall restores together; as in 200MiB; 0: as many as there are. A fault never waits for "
          "the "
          "rate: what it\nwants is fetched at once, and not counted. At the end of the service the rate is "
          "lifted")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  command
      .add_option("--max-restores", options.maxRestores,
                  "Restores at the same time; further targets are refused")
      ->check(CLI::Range(1u, 100'000u))
      ->capture_default_str();
  command
      .add_option(
          "--stop-limit-s", options.stopLimitS,
          "How long the end of the service may take to fetch what targets miss, while that progresses")
      ->check(CLI::Range(0u, 86'400u))
      ->capture_default_str();
  command
      .add_option(
          "--population-rate", options.populationRate,
          "Bytes a second that all background population together may bring, as in 200MiB; 0: as many as\n"
          "there are. Faults are not held back, nor is the end of the service")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  command
      .add_option(
          "--populations", options.populations,
          "Restores that are populated in the background at once, in the order of their coming; 0: all")
      ->check(CLI::Range(0u, 100'000u))
      ->capture_default_str();
  command
      .add_option("--cpu-latency-us", options.cpuLatencyUs,
                  "While faults flow, ask the kernel for CPUs that wake within so many us, all over the "
                  "machine; with "
                  "0, idle ones poll. Needs write access to /dev/cpu_dma_latency")
      ->check(CLI::Range(0u, 1'000'000u))
      ->check(canSetCpuLatency);
  command.add_option("--log-level", options.logLevel, "How much to log, to stderr")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "critical", "off"}))
      ->capture_default_str();
  command.add_flag("--test-hooks", options.testHooks, "Offer the test hooks: for tests only");
}

}  // namespace faultline::cli
