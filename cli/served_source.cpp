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
  rpc::FetcherRights rights;
  rights.add(uri);
  std::vector<std::string> arguments = rights.arguments();
  arguments.insert(arguments.end(), {"--log-level", "error"});
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
        const std::uint64_t bytes = response.getFacts().getBytes();
        auto source = response.getSource();
        return source.fingerprintRequest().send().then([bytes, source = kj::mv(source)](auto answer) {
          return SnapshotIdentity{bytes, answer.getFingerprint()};
        });
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
