// A shard process as the coordinator sees it.
#pragma once

#include <kj/async-io.h>

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "coordinator/options.h"
#include "coordinator/source_files.h"
#include "coordinator/supervisor_link.h"
#include "failpoints/failpoints.h"
#include "process/process.h"
#include "rpc/connection.h"
#include "rpc/fault_ring.h"
#include "rpc/shard.capnp.h"

namespace faultline::coordinator {

// A live process and the connection to it. Loop thread only.
class ShardHandle {
 public:
  // Starts a process. `careful`: its predecessor died, so it begins with one fault at a time.
  static kj::Own<ShardHandle> start(kj::AsyncIoContext& io, SupervisorLink& link,
                                    failpoints::Failpoints& failpoints, const Options& options,
                                    std::uint32_t index, bool careful);
  // Starts a process that is to replace another: the supervisor does not keep it until keep(), and it ends
  // with us.
  static kj::Own<ShardHandle> startBeside(kj::AsyncIoContext& io, const Options& options,
                                          std::uint32_t index);
  void keep(SupervisorLink& link);
  // Takes over a process that a predecessor started, if it still lives. Empty: the process has ended; a live
  // one that cannot be taken over is killed first. Throws where it does not end.
  static kj::Maybe<kj::Own<ShardHandle>> adopt(kj::AsyncIoContext& io, std::uint32_t index,
                                               kj::AutoCloseFd channel, kj::AutoCloseFd pidfd);

  enum class Origin { started, adopted };
  ShardHandle(kj::AsyncIoContext& io, std::uint32_t index, kj::AutoCloseFd channel,
              process::ChildProcess process, Origin origin);

  // First call on the connection: what the shard has attached, then the ring.
  kj::Promise<std::vector<std::uint64_t>> greet(rpc::ShardEvents::Client events);

  // Has the shard serve a restore; the fds are borrowed. A repeated call gets the answer to the first one.
  // Throws where there are no fds left.
  kj::Promise<void> attach(std::uint64_t restore, int uffd, int segment, const SourceFiles& source,
                           const std::vector<SourceLayer>& were);
  // Whether it has been asked to, and not yet to let go: what it says of any other restore is none of its
  // business.
  bool serves(std::uint64_t restore) const { return attached_.count(restore) != 0; }
  // Takes the restore from the shard, even if its attach is not answered yet or its caller is gone. Resolves
  // when the shard uses nothing of the restore any more.
  kj::Promise<void> letGo(std::uint64_t restore);
  // Takes a restore from the shard that a predecessor attached.
  kj::Promise<void> detach(std::uint64_t restore);

  // Hands faults over: through the ring, or by a call where that is full.
  void handOver(std::uint64_t restore, std::uint64_t readAt, std::span<const std::uint64_t> pages);
  // After all handOver()s of a drain.
  void ringDoorbell() { ring_.ring(); }

  rpc::Shard::Client& rpc() { return shard_; }
  std::uint32_t index() const { return index_; }
  // Lived before this coordinator did.
  bool adopted() const { return origin_ == Origin::adopted; }
  // The shard's build, and the program that it runs, as its answer to greet() said (process/build.h).
  const std::string& version() const { return version_; }
  const std::string& image() const { return image_; }
  pid_t pid() const { return process_.pid; }
  int pidfd() const { return process_.pidfd.get(); }
  std::uint64_t startedAt() const { return startedAt_; }  // ns, CLOCK_MONOTONIC
  // Resolves when the process has ended.
  kj::Promise<void> ended();

 private:
  kj::AsyncIoContext& io_;
  const std::uint32_t index_;
  process::FdChannel channel_;
  process::ChildProcess process_;
  kj::UnixEventPort::FdObserver exit_;
  rpc::FaultRing ring_;
  kj::Own<rpc::Connection> connection_;
  rpc::Shard::Client shard_;
  const std::uint64_t startedAt_;
  const Origin origin_;
  std::string version_, image_;
  // By restore: whether its attach was answered. An entry stays until letGo(), whatever becomes of the
  // restore.
  std::map<std::uint64_t, kj::ForkedPromise<void>> attached_;
};

// The program that a shard started now would run (process/build.h, imageOf).
std::string shardImage(const Options& options);

// Copy workers a shard has besides its fault thread.
std::uint32_t threadsOf(const Options& options);

// `options` with a number of copy workers that all inherited restores have slots for: with more, a shard
// could not serve them. The number holds for shards that are started later, too, whatever CPUs come and go.
Options fitting(Options options, const Inheritance& inherited);

}  // namespace faultline::coordinator
