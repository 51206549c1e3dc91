#include "cli/common.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace faultline::cli {

std::string messageOf(const kj::Exception& exception) {
  std::string text = exception.getDescription().cStr();
  // KJ_REQUIRE puts the condition in front: "expected a == b; what it means; a = 1".
  if (text.rfind("remote exception: ", 0) == 0) text = text.substr(18);
  if (text.rfind("expected ", 0) == 0) {
    const std::size_t end = text.find("; ");
    if (end != std::string::npos) text = text.substr(end + 2);
  }
  return text;
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
  if (!S_ISREG(status.st_mode)) throw CommandError(USAGE, "memory file " + path + " is no regular file");
  if (status.st_size == 0)
    throw CommandError(USAGE, "memory file " + path + " is empty; was the snapshot written?");
  return fd;
}

kj::AutoCloseFd makeSocket(const std::string& path) {
  kj::AutoCloseFd fd;
  auto failure = kj::runCatchingExceptions([&] { fd = rpc::listenAt(path); });
  KJ_IF_MAYBE (e, failure) {
    throw CommandError(USAGE, "socket " + path + ": " + messageOf(*e));
  }
  return fd;
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

std::vector<std::string> ServiceOptions::coordinatorArguments() const {
  std::vector<std::string> arguments = {"--shards",
                                        std::to_string(shards),
                                        "--workers",
                                        std::to_string(workers),
                                        "--lock-deadline-ms",
                                        std::to_string(lockDeadlineMs),
                                        "--watchdog-ms",
                                        std::to_string(watchdogMs),
                                        "--handshake-timeout-ms",
                                        std::to_string(handshakeTimeoutMs),
                                        "--log-level",
                                        logLevel};
  if (testHooks) arguments.push_back("--test-hooks");
  return arguments;
}

void addServiceOptions(CLI::App& command, ServiceOptions& options) {
  command.add_option("--shards", options.shards, "Shard processes that copy pages (1 to 64)")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  command
      .add_option("--workers", options.workers, "Copy workers a shard (1 to 14); 0: from the number of CPUs")
      ->check(CLI::Range(0u, 14u))
      ->capture_default_str();
  command
      .add_option("--lock-deadline-ms", options.lockDeadlineMs,
                  "A shard that blocks removals for longer is killed and replaced")
      ->capture_default_str();
  command
      .add_option("--watchdog-ms", options.watchdogMs, "A coordinator that is silent for longer is replaced")
      ->check(CLI::Range(40u, 600'000u))
      ->capture_default_str();
  command
      .add_option("--handshake-timeout-ms", options.handshakeTimeoutMs,
                  "How long a target may take for its handshake")
      ->capture_default_str();
  command.add_option("--log-level", options.logLevel, "trace, debug, info, warn or error")
      ->capture_default_str();
  command.add_flag("--test-hooks", options.testHooks, "Offer the test hooks: for tests only");
}

}  // namespace faultline::cli
