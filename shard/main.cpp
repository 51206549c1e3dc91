// faultline-shard: one of the processes that copy pages. Started by the coordinator; finds its channel at
// fd 3.
//
// A shard lives as long as a process holds the other end of its channel (the coordinator, and the supervisor
// for its successor). Words on the channel: "connect", with a stream socket on which to serve shard.capnp.

#include <kj/async-io.h>
#include <kj/exception.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "process/build.h"
#include "process/close_errors.h"
#include "process/fd_channel.h"
#include "process/log.h"
#include "process/log_about.h"
#include "process/message.h"
#include "process/process.h"
#include "rpc/connection.h"
#include "shard/sandbox.h"
#include "shard/shard_server.h"
#include "shard/source/bus_guard.h"
#include "shmtracker/layout.h"

namespace {

using namespace faultline;

// Takes each coordinator that comes; returns when the channel's last other end is closed.
kj::Promise<void> serveChannel(process::FdChannel& channel, kj::UnixEventPort::FdObserver& readable,
                               rpc::Acceptor& acceptor, kj::LowLevelAsyncIoProvider& provider) {
  for (;;) {
    auto received = channel.receive(process::FdChannel::Wait::no);
    KJ_IF_MAYBE (message, received) {
      if (message->verb == "connect" && message->fd.get() >= 0)
        acceptor.accept(provider, kj::mv(message->fd));
      continue;
    }
    if (channel.closed()) return kj::READY_NOW;
    return readable.whenBecomesReadable().then([&channel, &readable, &acceptor, &provider] {
      return serveChannel(channel, readable, acceptor, provider);
    });
  }
}

void serve(const shard::ShardOptions& options) {
  const process::CloseErrorsLogged closing;
  auto io = kj::setupAsyncIo();
  process::FdChannel channel{kj::AutoCloseFd(process::CHANNEL_FD)};
  shard::ShardService service(io, options);
  rpc::Acceptor acceptor(service.makeServer());
  // Entered before any connection: from here on every byte comes from another process.
  if (!shard::enterSandbox()) spdlog::debug("this build has no system call filter");
  auto running = service.run().eagerlyEvaluate(
      [](kj::Exception&& e) { spdlog::critical("shard: {}", e.getDescription().cStr()); });
  kj::UnixEventPort::FdObserver readable(io.unixEventPort, channel.fd(),
                                         kj::UnixEventPort::FdObserver::OBSERVE_READ);
  serveChannel(channel, readable, acceptor, *io.lowLevelProvider).wait(io.waitScope);
  spdlog::debug("nobody holds this shard any more");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "faultline-shard copies pages for a faultline coordinator, which starts it. It is not run by hand."};
  shard::ShardOptions options;
  std::string logLevel = "info";
  std::uint32_t index = 0;
  app.add_option("--threads", options.threads, "Copy workers besides the fault thread")
      ->check(CLI::Range(1u, shm::MAX_COPY_WORKERS));
  app.add_option("--careful", options.loop.carefulFaults, "Serve so many first faults one by one");
  std::uint64_t patience = 30'000;
  app.add_option("--source-patience-ms", patience,
                 "How long reads of a page may go on failing before it is given up");
  app.add_option("--index", index, "Which of the shards it is, for the log")->check(CLI::Range(0u, 63u));
  app.add_flag("--test-hooks", options.testHooks, "Let tests arm failpoints");
  app.add_option("--log-level", logLevel, "trace, debug, info, warn, error");
  bool build = false;
  app.add_flag("--build", build, "Say which build this is, on the channel, and end");
  CLI11_PARSE(app, argc, argv);
  if (build) return process::sayBuild();
  process::nameProcess("faultline-shard");
  options.loop.sourcePatience = patience * 1'000'000;

  spdlog::set_level(spdlog::level::from_str(logLevel));
  try {
    shard::dropCapabilities();  // before the log, which has a thread
  } catch (const kj::Exception& error) {
    fprintf(stderr, "faultline-shard: %s\n", process::messageOf(error).c_str());
    return 1;
  }
  process::logForShard(index);
  process::setUpLog("shard-" + std::to_string(index), process::LogStream::out);
  // A core dump would hold the robust mutexes of a dead shard until it is written, too.
  process::keepMemoryPrivate();
  shard::installBusGuard();
  try {
    serve(options);
  } catch (const std::exception& error) {
    spdlog::critical("{}", error.what());
    return 1;
  }
  return 0;
}
