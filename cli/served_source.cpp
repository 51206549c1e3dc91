#include "cli/served_source.h"

#include <kj/async-io.h>
#include <kj/exception.h>

#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "cli/errors.h"
#include "process/process.h"
#include "rpc/connection.h"
#include "rpc/fd.h"
#include "rpc/fetcher.capnp.h"
#include "rpc/refusal.h"
#include "rpc/source_connector.h"
#include "rpc/source_uri.h"

namespace faultline::cli {

namespace {

constexpr kj::Duration LIMIT = 20 * kj::SECONDS;

SnapshotIdentity ask(int named, const std::string& uri) {
  auto io = kj::setupAsyncIo();
  std::vector<std::string> arguments{"--nbd", "--log-level", "error"};
  const rpc::SourceUri source = rpc::SourceUri::parse(uri);
  for (const std::string& path : {source.keyFile, source.certificates})
    if (!path.empty()) arguments.insert(arguments.end(), {"--readable", path});
  auto [ours, theirs] = rpc::streamPair();
  const process::ChildProcess child =
      process::startProcess(process::siblingExecutable("faultline-fetcher"), arguments, theirs.get());
  theirs = kj::AutoCloseFd();
  KJ_DEFER(process::endChild(child.pidfd.get(), std::chrono::seconds(1)));
  rpc::Connection connection(*io.lowLevelProvider, kj::mv(ours));
  auto request = connection.bootstrap().castAs<rpc::Fetcher>().openRequest();
  request.setFile(rpc::makeFdFrom(named));
  request.setName(uri.c_str());
  request.setConnector(rpc::makeConnector(io, uri, -1));
  return request.send()
      .then([](auto response) {
        return SnapshotIdentity{response.getFacts().getBytes(), response.getFacts().getIdentity()};
      })
      .exclusiveJoin(io.provider->getTimer().afterDelay(LIMIT).then(
          []() -> SnapshotIdentity { rpc::refuse(rpc::Reason::BAD_SOURCE, "the server does not answer"); }))
      .wait(io.waitScope);
}

}  // namespace

// In a thread of its own, since ours may have a loop already.
SnapshotIdentity askServer(int named, const std::string& uri) {
  std::optional<SnapshotIdentity> identity;
  std::string why;
  std::thread([&] {
    KJ_IF_MAYBE (error, kj::runCatchingExceptions([&] { identity = ask(named, uri); }))
      why = rpc::refusalOf(*error).message;
  }).join();
  if (!identity.has_value())
    throw CommandError(FAILED, why.find(uri) != std::string::npos ? why : "source " + uri + ": " + why);
  return *identity;
}

}  // namespace faultline::cli
