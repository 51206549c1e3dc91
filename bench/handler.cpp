#include "bench/handler.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <kj/debug.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <thread>

#include "bench/remover.h"
#include "process/clock.h"
#include "process/process.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t START_NS = 10'000'000'000;  // limit for a server's first answer

std::string freshName(const std::string& directory, const std::string& kind) {
  static unsigned number = 0;
  // A name that no killed run has left behind.
  return directory + "/" + kind + "-" + std::to_string(getpid()) + "-" + std::to_string(++number);
}

// For this process and those that it becomes.
void refuseIoUring() {
  const scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
  if (seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(io_uring_setup), 0) != 0 ||
      seccomp_load(filter) != 0)
    _exit(126);
  seccomp_release(filter);
}

}  // namespace

void Handler::start(std::vector<std::string> arguments, Placement placement, bool ioUring) {
  const cpu_set_t cpus = handlerCpus(placement);
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  KJ_SYSCALL(pid_ = fork());
  if (pid_ != 0) return;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
  sched_setaffinity(0, sizeof cpus, &cpus);
  if (getenv("FAULTLINE_BENCH_LOG") == nullptr) {
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, STDERR_FILENO);
  }
  if (!ioUring) refuseIoUring();
  execv(argv[0], argv.data());
  _exit(127);
}

Handler::~Handler() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  waitpid(pid_, nullptr, 0);
  kill(-pid_, SIGKILL);  // children of one that did not see to them
}

bool Handler::ended() const {
  return waitpid(pid_, nullptr, WNOHANG) == pid_;
}

PlainHandler::PlainHandler(const std::string& kind, const std::string& directory, const std::string& memory,
                           Placement placement, Readiness readiness)
    : Handler(freshName(directory, kind)) {
  std::vector<std::string> arguments{
      process::siblingExecutable("faultline-bench"), kind, "--socket", socket(), "--memory", memory};
  if (readiness == Readiness::asNeeded) arguments.push_back("--cold");
  start(std::move(arguments), placement);
  for (const std::uint64_t from = process::nowNs(); access(socket().c_str(), F_OK) != 0; usleep(1000)) {
    if (ended()) throw std::runtime_error("faultline-bench " + kind + " ended at once");
    if (process::nowNs() - from > START_NS)
      throw std::runtime_error("faultline-bench " + kind + " does not start");
  }
}

namespace {
bool hasOption(const std::string& program, const std::string& option) {
  return std::system(("'" + program + "' serve --help 2>/dev/null | grep -q -- " + option).c_str()) == 0;
}
}  // namespace

unsigned ownersOf(const FaultlineOptions& options) {
  return std::min(options.shards, options.owners != 0 ? options.owners : std::thread::hardware_concurrency());
}

Faultline::Faultline(const std::string& directory, const std::string& memory, const FaultlineOptions& options)
    : Handler(freshName(directory, "faultline")),
      program_(options.build.empty() ? process::siblingExecutable("faultline")
                                     : options.build + "/faultline"),
      control_(socket() + ".control") {
  std::vector<std::string> arguments{program_,         "serve",
                                     "--control",      control_,
                                     "--socket",       socket(),
                                     "--memory",       memory,
                                     "--name",         "bench",
                                     "--shards",       std::to_string(options.shards),
                                     "--owners",       std::to_string(options.owners),
                                     "--workers",      std::to_string(options.workers),
                                     "--keep-serving", options.prefault ? "--prefault" : "--no-prefault",
                                     "--log-level",    "warn"};
  const auto add = [&](std::initializer_list<std::string> more) { arguments.insert(arguments.end(), more); };
  for (const std::string& layer : options.over) add({"--over", layer});
  if (options.pollIdle) add({"--cpu-latency-us", "0"});
  if (!options.around.empty() && hasOption(program_, "--around")) add({"--around", options.around});
  if (!options.workingSet.empty()) add({"--working-set", options.workingSet});
  if (options.keepRegistered && hasOption(program_, "--keep-registered")) add({"--keep-registered"});
  if (options.recordWorkingSet) add({"--record-working-set"});
  start(std::move(arguments), options.placement, options.ioUring);
  // The socket is there a moment before it can be connected to.
  for (const std::uint64_t from = process::nowNs();; usleep(1000)) {
    const auto failure = kj::runCatchingExceptions([this] { connect(); });
    if (failure == nullptr) return;
    if (ended()) throw std::runtime_error("faultline serve ended at once; FAULTLINE_BENCH_LOG=1 shows why");
    if (process::nowNs() - from > START_NS)
      throw std::runtime_error(KJ_ASSERT_NONNULL(failure).getDescription().cStr());
  }
}

std::unique_ptr<rpc::ControlClient> Faultline::connect() const {
  auto client = std::make_unique<rpc::ControlClient>(control_);
  client->wait(client->coordinator().listRequest().send());
  return client;
}

std::vector<pid_t> Faultline::shardPids() const {
  const auto client = connect();
  auto response = client->wait(client->coordinator().statusRequest().send());
  std::vector<pid_t> pids;
  for (auto shard : response.getService().getShards()) pids.push_back(static_cast<pid_t>(shard.getPid()));
  return pids;
}

namespace {
std::pair<std::uint64_t, std::string> newest(rpc::ControlClient& client) {
  auto response = client.wait(client.coordinator().listRequest().send());
  std::pair<std::uint64_t, std::string> last;
  for (auto info : response.getRestores()) last = std::max(last, {info.getId(), info.getName().cStr()});
  return last;
}
}  // namespace

void Faultline::saveWorkingSet(const std::string& file) const {
  const auto client = connect();
  const std::string command = fmt::format("'{}' working-set save {} --output '{}' --control '{}' >/dev/null",
                                          program_, newest(*client).second, file, control_);
  if (std::system(command.c_str()) != 0) throw std::runtime_error("cannot save a working set: " + command);
}

std::uint64_t newestRestore(rpc::ControlClient& client) {
  return newest(client).first;
}

rpc::Restore::Client restoreAfter(rpc::ControlClient& client, std::uint64_t number) {
  for (;;) {
    const auto [id, name] = newest(client);
    if (id > number) return client.restore(name);
    sched_yield();
  }
}

Prefault prefault(const Faultline& server, const IdleMemory& memory, unsigned removesPerSecond,
                  const std::function<void()>& whileThere) {
  const auto client = server.connect();
  const std::uint64_t newest = newestRestore(*client), before = process::nowNs();
  const IdleTarget target(memory, server.backing());
  Remover remover(removesPerSecond, Placement::free, [&] { target.giveBack(); });
  client->wait(restoreAfter(*client, newest).waitCompleteRequest().send());
  const std::uint64_t took = process::nowNs() - before;
  const std::uint64_t removals = remover.stop();
  if (whileThere) whileThere();
  return {static_cast<double>(took) * 1e-9, removals};
}

}  // namespace faultline::bench
