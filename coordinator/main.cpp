// faultline-coordinator: reads the uffds and hands faults to the shards. Started by `faultline serve` and
// `faultline restore`, which supervise it; finds its channel to the supervisor at fd 3.

#include <kj/async-io.h>
#include <kj/debug.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sysexits.h>

#include <CLI/CLI.hpp>

#include "coordinator/own_thread.h"
#include "coordinator/service.h"
#include "process/build.h"
#include "process/close_errors.h"
#include "process/cpu_list.h"
#include "process/log.h"
#include "process/process.h"
#include "shmtracker/layout.h"

namespace {

using namespace faultline;

// Never done. The supervisor says "end" when it is told to; a signal to this process alone is the same.
kj::Promise<void> endOnSignal(kj::AsyncIoContext& io, coordinator::Service& service) {
  return io.unixEventPort.onSignal(SIGTERM)
      .exclusiveJoin(io.unixEventPort.onSignal(SIGINT))
      .then([&io, &service](siginfo_t&&) {
        service.end().begin("the coordinator was sent a signal", false);
        return endOnSignal(io, service);
      });
}

void serve(coordinator::Options options) {
  const process::CloseErrorsLogged closing;
  kj::UnixEventPort::captureSignal(SIGTERM);
  kj::UnixEventPort::captureSignal(SIGINT);
  auto io = kj::setupAsyncIo();
  coordinator::SupervisorLink link(kj::AutoCloseFd(process::CHANNEL_FD), io.unixEventPort);
  auto inherited = link.inherit();
  const kj::AutoCloseFd shardProgram = inherited.take(process::KeptName::program());
  options.shardProgram = shardProgram.get();
  const kj::AutoCloseFd fetcherProgram = inherited.take(process::KeptName::fetcherProgram());
  options.fetcherProgram = fetcherProgram.get();
  coordinator::Service service(io, link, kj::mv(inherited), options);
  service.run().exclusiveJoin(endOnSignal(io, service)).wait(io.waitScope);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "faultline-coordinator is started by `faultline serve` and `faultline restore`; it is not run by "
      "hand."};
  coordinator::Options options;
  std::uint64_t lockDeadline = 250, watchdog = 2000, handshake = 10'000, patience = 30'000;
  app.add_option("--shards", options.shards, "Shard processes")->check(CLI::Range(1u, shm::MAX_SHARDS));
  app.add_option("--owners", options.owners, "Shards a restore is dealt out to; 0: as many as there are CPUs")
      ->check(CLI::Range(0u, shm::MAX_SHARDS));
  std::string cpus;
  app.add_option("--cpus", cpus, "CPUs that we and the shards run on");
  app.add_option("--workers", options.threads, "Copy workers a shard; 0: from the number of CPUs")
      ->check(CLI::Range(0u, shm::MAX_COPY_WORKERS));
  app.add_option("--lock-deadline-ms", lockDeadline,
                 "How long a shard may hold the lock before it is killed");
  app.add_option("--watchdog-ms", watchdog, "How often the supervisor wants to hear from us, at the least");
  app.add_option("--handshake-timeout-ms", handshake, "How long a target may take for its handshake");
  app.add_option("--source-patience-ms", patience,
                 "How long reads of a page may go on failing before it is given up");
  std::uint64_t stopLimit = 300;
  app.add_option("--stop-limit-s", stopLimit,
                 "How long the end of the service may take to fetch what is missing");
  app.add_option("--max-restores", options.maxRestores, "Restores at the same time");
  app.add_option("--population-rate", options.populationRate,
                 "Bytes a second of background population, in all; 0: any");
  app.add_option("--populations", options.populations, "Restores that are populated at once; 0: all");
  app.add_option("--cpu-latency-us", options.cpuLatencyUs, "What CPUs may take to wake while faults flow");
  app.add_option("--cache-dir", options.cacheDirectory, "Where what is fetched is kept");
  app.add_option("--cache-limit", options.cacheLimit, "Bytes that it may take");
  app.add_option("--fetch-rate", options.fetchRate, "Bytes a second of what no fault waits for; 0: any");
  app.add_flag("--test-hooks", options.testHooks, "Offer the test hooks");
  app.add_option("--log-level", options.logLevel, "trace, debug, info, warn, error");
  bool build = false;
  app.add_flag("--build", build, "Say which build this is, on the channel, and end");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // The supervisor is of another build, and would say the same again: see supervisor/supervisor.h.
    return app.exit(error) == 0 ? EX_OK : EX_USAGE;
  }
  if (build) return process::sayBuild();
  process::nameProcess("faultline-coordinator");
  options.lockDeadline = std::chrono::milliseconds(lockDeadline);
  options.watchdog = std::chrono::milliseconds(watchdog);
  options.handshakeTimeout = std::chrono::milliseconds(handshake);
  options.sourcePatience = std::chrono::milliseconds(patience);
  options.stopLimit = std::chrono::seconds(stopLimit);

  try {
    // Before there is any other thread: that of the log is the first.
    if (!cpus.empty()) process::runOnCpus(cpus);
    spdlog::set_level(spdlog::level::from_str(options.logLevel));
    process::setUpLog("coordinator", process::LogStream::out);
    process::keepMemoryPrivate();
    coordinator::prepareOwnThreads();
    serve(options);
  } catch (const kj::Exception& error) {
    spdlog::critical("{}", error.getDescription().cStr());
    return 1;
  } catch (const std::exception& error) {
    spdlog::critical("{}", error.what());
    return 1;
  }
  return 0;
}
