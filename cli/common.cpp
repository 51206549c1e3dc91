#include "cli/common.h"

#include <fcntl.h>
#include <kj/common.h>
#include <linux/userfaultfd.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rpc/connection.h"
#include "rpc/cpu_list.h"
#include "rpc/log.h"

namespace faultline::cli {

namespace {

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find(separator, begin)) != std::string::npos;
       begin = end + separator.size())
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

// "path.c_str() = /tmp/x" is "/tmp/x" to people; words with a blank in front of the sign are words.
std::string withoutExpression(const std::string& operand) {
  const std::size_t sign = operand.find(" = ");
  return sign == std::string::npos ? operand : operand.substr(sign + 3);
}

// For a CLI::App's check().
std::string canSetCpuLatency(const std::string&) {
  if (access("/dev/cpu_dma_latency", W_OK) == 0) return "";
  return std::string("/dev/cpu_dma_latency cannot be written: ") + std::strerror(errno) +
         "; it takes root (and DeviceAllow= in a service). Leave the option out where that is not to be had";
}

}  // namespace

std::string messageOf(const kj::Exception& exception) {
  std::string text = exception.getDescription().cStr();
  if (text.starts_with("remote exception: ")) text = text.substr(18);
  // As KJ_REQUIRE composes it: "expected a == b; what it means; a = 1; b = 2".
  std::vector<std::string> parts = split(text, "; ");
  if (parts.size() > 1 && parts.front().starts_with("expected ")) parts.erase(parts.begin());
  std::string message = parts.front();
  for (std::size_t i = 1; i < parts.size(); i++) {
    const bool operand = parts[i].find(" = ") != std::string::npos;
    message += (operand ? ": " : "; ") + withoutExpression(parts[i]);
  }
  return message;
}

int guarded(const std::function<int()>& body) {
  try {
    return body();
  } catch (const CommandError& error) {
    fprintf(stderr, "faultline: %s\n", error.what());
    return error.code;
  } catch (const kj::Exception& error) {
    fprintf(stderr, "faultline: %s\n", messageOf(error).c_str());
    return error.getType() == kj::Exception::Type::DISCONNECTED ? DISCONNECTED : FAILED;
  } catch (const std::exception& error) {
    fprintf(stderr, "faultline: %s\n", error.what());
    return FAILED;
  }
}

kj::AutoCloseFd openMemory(const std::string& path) {
  kj::AutoCloseFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0)
    throw CommandError(
        USAGE, "memory file " + path + ": " + std::strerror(errno) + "; give the snapshot's memory file");
  struct stat status {};
  fstat(fd.get(), &status);
  if (S_ISDIR(status.st_mode))
    throw CommandError(USAGE, "memory file " + path + " is a directory; give the snapshot's memory file");
  if (!S_ISREG(status.st_mode))
    throw CommandError(USAGE, "memory file " + path +
                                  " is no regular file (a device, a pipe?); give the snapshot's memory file");
  if (status.st_size == 0)
    throw CommandError(USAGE, "memory file " + path + " is empty; was the snapshot written?");
  return fd;
}

SocketFile::SocketFile(const std::string& path) : path_(path) {
  auto failure = kj::runCatchingExceptions([&] { fd_ = rpc::listenAt(path); });
  KJ_IF_MAYBE (e, failure) {
    throw CommandError(USAGE, "socket: " + messageOf(*e));
  }
}

SocketFile::~SocketFile() {
  if (!left_) unlink(path_.c_str());
}

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

void addControl(CLI::App& command, std::string& path) {
  command.add_option("--control", path, "Control socket of the server")->capture_default_str();
}

const CLI::Validator& restoreName() {
  static const CLI::Validator validator(
      [](const std::string& name) {
        const bool good =
            !name.empty() && name.size() <= 50 && name.find_first_of(".:/ \t\n") == std::string::npos;
        return good ? ""
                    : "\"" + name + "\" must have 1 to 50 characters, none of them '.', ':', '/' or blank";
      },
      "NAME");
  return validator;
}

std::string humanBytes(std::uint64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  unsigned unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    unit++;
  }
  char text[32];
  snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

std::string humanNs(std::uint64_t ns) {
  char text[32];
  const double value = static_cast<double>(ns);
  if (ns < 1'000'000)
    snprintf(text, sizeof text, "%.1f us", value / 1e3);
  else if (ns < 1'000'000'000)
    snprintf(text, sizeof text, "%.1f ms", value / 1e6);
  else
    snprintf(text, sizeof text, "%.1f s", value / 1e9);
  return text;
}

bool isTerminal() {
  return isatty(STDOUT_FILENO) == 1;
}

void addOnLost(CLI::App& command, std::string& policy) {
  command
      .add_option(
          "--on-lost", policy,
          "What a target gets when a page is lost (its source is gone for good, or nobody can serve it\n"
          "any more): poison, an error on each such page as it touches it (SIGBUS), or kill, SIGKILL")
      ->check(CLI::IsMember({"poison", "kill"}))
      ->capture_default_str();
}

void logToStderr() {
  // What we start logs to stdout, too.
  dup2(STDERR_FILENO, STDOUT_FILENO);
  rpc::setUpLog("faultline", rpc::LogStream::err);
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
                                        "--max-restores",
                                        std::to_string(maxRestores),
                                        "--log-level",
                                        logLevel};
  if (!cpus.empty()) arguments.insert(arguments.end(), {"--cpus", cpus});
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
      ->check(rpc::whyNotCpuList);
  command
      .add_option("--workers", options.workers, "Copy workers a shard (1 to 14); 0: from the number of CPUs")
      ->check(CLI::Range(0u, 14u))
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
      .add_option("--max-restores", options.maxRestores,
                  "Restores at the same time; further targets are refused")
      ->check(CLI::Range(1u, 100'000u))
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
