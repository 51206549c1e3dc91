// Upgrades while restores are served: a build that takes over is looked at by the coordinator that goes, and
// has its shards put in by the one that comes.
#pragma once

#include <kj/async-io.h>

#include <cstdint>
#include <string>

#include "coordinator/event_log.h"
#include "coordinator/options.h"
#include "coordinator/shard_pool.h"
#include "coordinator/supervisor_link.h"
#include "process/build.h"

namespace faultline::coordinator {

// Loop thread only.
class Upgrade {
 public:
  // `givenUp`: why the supervisor went back to this build; empty: it did not.
  Upgrade(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log, ShardPool& pool,
          const Options& options, std::string givenUp);

  // The facts that the build in `directory` says of itself. Fails where it is not whole or could not go on
  // with what this one has; the message has both values.
  kj::Promise<process::BuildFacts> check(const std::string& directory);
  // Checks the build in `directory`, then has the supervisor start it in our place. Does not resolve: this
  // process ends.
  kj::Promise<void> handOver(const std::string& directory);

  // Replaces the shards of other builds, each once the one before it serves. To be called once, when
  // everything serves.
  kj::Promise<void> replaceShards();
  // How many were replaced, when that is over. Fails where the upgrade was given up.
  kj::Promise<std::uint32_t> whenOver();

 private:
  kj::Promise<process::BuildFacts> ask(std::string path, int image);
  kj::Promise<process::BuildFacts> checkOpen(const process::Build& build);
  kj::Promise<void> replaceFrom(std::uint32_t index);

  kj::AsyncIoContext& io_;
  SupervisorLink& link_;
  EventLog& log_;
  ShardPool& pool_;
  const Options& options_;
  std::string givenUp_;
  std::uint32_t replaced_ = 0;
  kj::Own<kj::PromiseFulfiller<void>> overFulfiller_;
  kj::ForkedPromise<void> over_;
};

}  // namespace faultline::coordinator
