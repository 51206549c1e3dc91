// faultline-fetcher: fetches what no file of this host has as it is served. Started by the coordinator; finds a connection
// to it at fd 3, and ends with it: whatever it knows that may not be lost is in shared memory of others.

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/exception.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "fetcher/fetcher_server.h"
#include "fetcher/sandbox.h"
#include "process/log.h"
#include "process/message.h"
#include "process/process.h"
#include "rpc/connection.h"

namespace {

using namespace faultline;

void serve(std::uint64_t cacheLimit) {
  auto io = kj::setupAsyncIo();
  auto& state = *new fetcher::State(cacheLimit);  // threads that wait for a store outlive the loop
  auto stream = io.lowLevelProvider->wrapUnixSocketFd(kj::AutoCloseFd(process::CHANNEL_FD));
  if (!fetcher::enterSandbox()) spdlog::debug("this build has no system call filter");
  capnp::TwoPartyServer server(fetcher::makeFetcherServer(state));
  server.accept(*stream, rpc::MAX_FDS).wait(io.waitScope);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "faultline-fetcher fetches sources for a faultline coordinator, which starts it. It is not run by "
      "hand."};
  std::uint64_t cacheLimit = 0;
  std::string logLevel = "info";
  app.add_option("--cache-limit", cacheLimit, "Bytes that what is kept may take")->required();
  app.add_option("--log-level", logLevel, "trace, debug, info, warn, error");
  CLI11_PARSE(app, argc, argv);
  process::nameProcess("faultline-fetcher");
  spdlog::set_level(spdlog::level::from_str(logLevel));
  int code = 0;
  try {
    fetcher::dropCapabilities();  // before the log, which has a thread
    process::setUpLog("fetcher", process::LogStream::out);
    process::keepMemoryPrivate();
    serve(cacheLimit);
  } catch (const kj::Exception& error) {
    // That the coordinator is killed is how this usually ends.
    if (error.getType() != kj::Exception::Type::DISCONNECTED) {
      fprintf(stderr, "faultline-fetcher: %s\n", process::messageOf(error).c_str());
      code = 1;
    }
  } catch (const std::exception& error) {
    fprintf(stderr, "faultline-fetcher: %s\n", error.what());
    code = 1;
  }
  process::flushLog();
  // Not by way of destructors: threads may be at work still.
  _exit(code);
}
