// faultline-fetcher: fetches what no file of this host has as it is served. Started by the coordinator; finds a connection
// to it at fd 3, and ends with it: whatever it knows that may not be lost is in shared memory of others.

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/exception.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <system_error>
#include <utility>

#include "fetcher/connect.h"
#include "fetcher/fetcher_server.h"
#include "fetcher/nbd_library.h"
#include "fetcher/sandbox.h"
#include "process/log.h"
#include "process/message.h"
#include "process/process.h"
#include "rpc/connection.h"

namespace {

using namespace faultline;

struct Options {
  std::uint64_t cacheLimit = 0, fetchRate = 0, patienceMs = 30'000;
  std::string connect, logLevel = "info";
  fetcher::Rights rights;
};

// Why no key or certificate can be read; empty: those can that are named.
std::string whyNoFence(const fetcher::Rights& rights) {
  try {
    fetcher::fence(rights);
    return "";
  } catch (const std::system_error& error) {
    return std::string("no key or certificate can be read: ") + error.what();
  }
}

// Before there is a filter; what is missing is told to those who want it.
void loadNbd() {
  try {
    fetcher::NbdLibrary::load();
  } catch (const std::runtime_error& error) {
    spdlog::warn("{}", error.what());
  }
}

void serve(const Options& options, std::string whyNoFiles) {
  auto io = kj::setupAsyncIo();
  // Threads that wait for a store outlive the loop.
  auto& state = *new fetcher::State(options.cacheLimit, options.fetchRate, options.patienceMs * 1'000'000,
                                    std::move(whyNoFiles));
  auto stream = io.lowLevelProvider->wrapUnixSocketFd(kj::AutoCloseFd(process::CHANNEL_FD));
  const bool fenced = !options.rights.readable.empty() && state.whyNoFiles.empty();
  if (!fetcher::enterSandbox(options.rights, fenced)) spdlog::debug("this build has no system call filter");
  capnp::TwoPartyServer server(fetcher::makeFetcherServer(state));
  server.accept(*stream, rpc::MAX_FDS).wait(io.waitScope);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "faultline-fetcher fetches sources for a faultline coordinator, which starts it. It is not run by "
      "hand."};
  Options options;
  app.add_option("--cache-limit", options.cacheLimit, "Bytes that what is kept may take");
  app.add_option("--fetch-rate", options.fetchRate, "Bytes a second of what no fault waits for; 0: any");
  app.add_option("--patience-ms", options.patienceMs, "How long a server may leave a read unanswered");
  app.add_flag("--nbd", options.rights.connections, "NBD servers are asked");
  app.add_option("--readable", options.rights.readable, "A key, or a directory of certificates (repeatable)");
  app.add_option("--connect", options.connect, "Connect to the server of this source, and end");
  app.add_option("--log-level", options.logLevel, "trace, debug, info, warn, error");
  CLI11_PARSE(app, argc, argv);
  process::nameProcess("faultline-fetcher");
  spdlog::set_level(spdlog::level::from_str(options.logLevel));
  int code = 0;
  try {
    fetcher::dropCapabilities();  // before the log, which has a thread
    if (!options.connect.empty())
      return fetcher::connectFor(rpc::SourceUri::parse(options.connect), process::CHANNEL_FD);
    if (options.rights.connections) loadNbd();
    std::string whyNoFiles = whyNoFence(options.rights);
    process::setUpLog("fetcher", process::LogStream::out);
    process::keepMemoryPrivate();
    serve(options, std::move(whyNoFiles));
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
