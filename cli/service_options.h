// The options of a service, for serve, restore and demo, and the needs of these commands of the machine.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace faultline::cli {

// userfaultfd can be used here, or CommandError(ENVIRONMENT) saying which sysctl, capability or device is
// missing.
void requireUserfaultfd();

// The log of this process and of those it starts: on stderr, so that stdout is the command's own.
void logToStderr();
void setLogLevel(const std::string& level);

// Options of a service, for serve, restore and demo alike.
struct ServiceOptions {
  std::uint32_t shards = 2;
  std::uint32_t owners = 0;
  std::uint32_t workers = 0;
  std::string cpus;  // empty: all that we may run on
  std::uint64_t lockDeadlineMs = 250;
  std::uint64_t watchdogMs = 2000;
  std::uint64_t handshakeTimeoutMs = 10'000;
  std::uint64_t sourcePatienceMs = 30'000;
  std::uint32_t maxRestores = 1024;
  std::uint64_t stopLimitS = 300;
  std::uint64_t populationRate = 0;  // bytes a second; 0: any
  std::uint32_t populations = 0;     // 0: all
  std::optional<std::uint32_t> cpuLatencyUs;
  std::string cacheDirectory;  // empty: the service manager's, or /var/tmp
  std::uint64_t cacheBytes = 16ull << 30;
  std::uint64_t fetchRate = 0;  // bytes a second; 0: any
  bool testHooks = false;
  std::string logLevel = "warn";

  std::vector<std::string> coordinatorArguments() const;
};
void addServiceOptions(CLI::App& command, ServiceOptions& options);

}  // namespace faultline::cli
