// What the commands share: exit codes, errors for people, opening what the user names.
#pragma once

#include <kj/exception.h>
#include <kj/io.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace faultline::cli {

enum Exit : int {
  OK = 0,
  FAILED = 1,        // of data or service: the message says what
  USAGE = 2,         // the command line, or a file or path named on it
  ENVIRONMENT = 3,   // the machine does not allow it
  DISCONNECTED = 4,  // no server there, or it has gone
};

inline const char* EXIT_CODES =
    "Exit codes: 0 done, 1 failed (the message says what), 2 wrong usage or input,\n"
    "            3 not possible on this machine, 4 no server reachable, or it has gone";

// Ends the command with this code and message.
struct CommandError : std::runtime_error {
  CommandError(Exit exit, const std::string& message) : std::runtime_error(message), code(exit) {}
  const Exit code;
};

// Runs a command's body; prints what went wrong in one line; returns the exit code.
int guarded(const std::function<int()>& body);

// The message of a kj::Exception for people: without places and expressions of the code.
std::string messageOf(const kj::Exception& exception);

// Opens a snapshot's memory file for reading. CommandError(USAGE) where it is missing, a directory, empty, or
// not readable.
kj::AutoCloseFd openMemory(const std::string& path);

// A listening Unix socket, mode 0600, and its file, which goes with the object.
class SocketFile {
 public:
  // CommandError(USAGE) where it can't be made.
  explicit SocketFile(const std::string& path);
  // The file of a socket that a service before us made and left.
  struct Left {};
  SocketFile(const std::string& path, Left) : path_(path) {}
  ~SocketFile();
  SocketFile(const SocketFile&) = delete;

  const std::string& path() const { return path_; }
  // The socket itself, for whoever is to serve it. Once.
  kj::AutoCloseFd take() { return kj::mv(fd_); }
  // The file stays: somebody else holds the socket and goes on serving it.
  void leave() { left_ = true; }

 private:
  const std::string path_;
  kj::AutoCloseFd fd_;
  bool left_ = false;
};

// userfaultfd can be used here, or CommandError(ENVIRONMENT) saying which sysctl, capability or device is
// missing.
void requireUserfaultfd();

inline const char* DEFAULT_CONTROL = "/run/faultline/control.sock";

// Adds --control.
void addControl(CLI::App& command, std::string& path);

// A check of the names of restores and listeners: they are part of the names of kept fds.
const CLI::Validator& restoreName();

// "17 B", "1.5 GiB": the largest unit that is not above the value, up to TiB.
std::string humanBytes(std::uint64_t bytes);
// "0.3 us", "1.5 ms", "75.0 s".
std::string humanNs(std::uint64_t ns);
// Whether stdout is one: a person reads it, and lines may be rewritten.
bool isTerminal();

// The log of this process and of those it starts: on stderr, so that stdout is the command's own.
void logToStderr();
void setLogLevel(const std::string& level);

// Adds --on-lost.
void addOnLost(CLI::App& command, std::string& policy);

// Options of a service, for serve, restore and demo alike.
struct ServiceOptions {
  std::uint32_t shards = 2;
  std::uint32_t owners = 0;
  std::uint32_t workers = 0;
  std::string cpus;  // empty: all that we may run on
  std::uint64_t lockDeadlineMs = 250;
  std::uint64_t watchdogMs = 2000;
  std::uint64_t handshakeTimeoutMs = 10'000;
  std::uint32_t maxRestores = 1024;
  std::optional<std::uint32_t> cpuLatencyUs;
  bool testHooks = false;
  std::string logLevel = "warn";

  std::vector<std::string> coordinatorArguments() const;
};
void addServiceOptions(CLI::App& command, ServiceOptions& options);

// --- the commands, each in a file of its name ---
using Result = std::function<int()>;
void addServe(CLI::App& app, Result& chosen);
void addRestore(CLI::App& app, Result& chosen);
void addStatus(CLI::App& app, Result& chosen);
void addMetrics(CLI::App& app, Result& chosen);
void addPages(CLI::App& app, Result& chosen);
void addManage(CLI::App& app, Result& chosen);
void addWorkingSet(CLI::App& app, Result& chosen);
void addDemo(CLI::App& app, Result& chosen);
void addUpgrade(CLI::App& app, Result& chosen);

}  // namespace faultline::cli
