// faultline-fetcher: fetches what no file of this host has as it is served. Started by the coordinator; finds a connection
// to it at fd 3, and ends with it: whatever it knows that may not be lost is in shared memory of others.

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/exception.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "fetcher/certificate_authorities.h"
#include "fetcher/connect.h"
#include "fetcher/curl_library.h"
#include "fetcher/fetcher_server.h"
#include "fetcher/nbd_library.h"
#include "fetcher/rbd_files.h"
#include "fetcher/rbd_library.h"
#include "fetcher/s3_keys.h"
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
  rpc::FetcherRights kinds;
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
template <typename Library>
void load() {
  try {
    Library::load();
  } catch (const std::runtime_error& error) {
    spdlog::warn("{}", error.what());
  }
}

void loadLibraries(const rpc::FetcherRights& kinds) {
  if (kinds.nbd) load<fetcher::NbdLibrary>();
  if (kinds.http) load<fetcher::CurlLibrary>();
  if (!kinds.ceph.empty()) load<fetcher::RbdLibrary>();
}

fetcher::Rights rightsFor(const rpc::FetcherRights& kinds) {
  fetcher::Rights rights{
      kinds.nbd || kinds.http, !kinds.ceph.empty(), {kinds.readable.begin(), kinds.readable.end()}};
  const auto read = [&rights](const std::string& path) {
    if (!path.empty()) rights.readable.push_back(path);
  };
  if (kinds.http) {
    read(fetcher::certificateAuthorities());
    // Its folder: who replaces keys puts another file in that one's place.
    read(std::filesystem::path(fetcher::s3KeyFile()).parent_path());
  }
  if (!kinds.ceph.empty())
    for (const std::string& path : fetcher::rbdFiles(kinds.ceph)) read(path);
  return rights;
}

void serve(const Options& options, const fetcher::Rights& rights, std::string whyNoFiles) {
  auto io = kj::setupAsyncIo();
  // Threads that wait for a store outlive the loop.
  auto& state = *new fetcher::State(options.cacheLimit, options.fetchRate, options.patienceMs * 1'000'000,
                                    std::move(whyNoFiles), fetcher::certificateAuthorities());
  auto stream = io.lowLevelProvider->wrapUnixSocketFd(kj::AutoCloseFd(process::CHANNEL_FD));
  const bool fenced = !rights.readable.empty() && state.whyNoFiles.empty();
  if (!fetcher::enterSandbox(rights, fenced)) spdlog::debug("this build has no system call filter");
  capnp::TwoPartyServer server(fetcher::makeFetcherServer(state));
  server.accept(*stream, rpc::MAX_FDS).wait(io.waitScope);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "faultline-fetcher fetches sources for a faultline coordinator, which starts it. It is not run by "
      "hand."};
  Options options;
  std::vector<std::string> readable, ceph;
  app.add_option("--cache-limit", options.cacheLimit, "Bytes that what is kept may take");
  app.add_option("--fetch-rate", options.fetchRate, "Bytes a second of what no fault waits for; 0: any");
  app.add_option("--patience-ms", options.patienceMs, "How long a server may leave a read unanswered");
  app.add_flag("--nbd", options.kinds.nbd, "NBD servers are asked");
  app.add_flag("--http", options.kinds.http, "Servers of objects are asked");
  app.add_option("--ceph", ceph, "Ceph clusters are asked, by this USER@CONFIGURATION (repeatable)");
  app.add_option("--readable", readable, "A key, or a directory of certificates (repeatable)");
  app.add_option("--connect", options.connect, "Connect to the server of this source, and end");
  app.add_option("--log-level", options.logLevel, "trace, debug, info, warn, error");
  CLI11_PARSE(app, argc, argv);
  options.kinds.readable = {readable.begin(), readable.end()};
  options.kinds.ceph = {ceph.begin(), ceph.end()};
  process::nameProcess("faultline-fetcher");
  spdlog::set_level(spdlog::level::from_str(options.logLevel));
  int code = 0;
  try {
    fetcher::dropCapabilities();  // before the log, which has a thread
    if (!options.connect.empty())
      return fetcher::connectFor(rpc::SourceUri::parse(options.connect), process::CHANNEL_FD);
    loadLibraries(options.kinds);
    const fetcher::Rights rights = rightsFor(options.kinds);
    std::string whyNoFiles = whyNoFence(rights);
    process::setUpLog("fetcher", process::LogStream::out);
    process::keepMemoryPrivate();
    serve(options, rights, std::move(whyNoFiles));
  } catch (const kj::Exception& error) {
    // DISCONNECTED is the usual end: the coordinator was killed.
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
