// The shards: started, watched, replaced when they die, ended with the service.
#pragma once

#include <kj/async-io.h>

#include <array>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "coordinator/event_log.h"
#include "coordinator/page_suspects.h"
#include "coordinator/service_counters.h"
#include "coordinator/shard_handle.h"
#include "shmtracker/layout.h"

namespace faultline::coordinator {

// Duties of the pool's owner when shards come and go. Loop thread.
class ShardPoolEvents {
 public:
  // A shard process has died; it is being replaced.
  virtual void shardDied(std::uint32_t index, Death death) = 0;
  // A shard answers, and up() gives it: attach everything it serves (`has`: what it has attached already),
  // wake its waiters.
  virtual kj::Promise<void> shardUp(ShardHandle& shard, std::vector<std::uint64_t> has) = 0;
  // A shard is to be replaced: takes everything from it. Resolves when it uses nothing any more.
  virtual kj::Promise<void> shardLeaves(ShardHandle& shard) = 0;
  virtual rpc::ShardEvents::Client eventsFor(std::uint32_t index) = 0;

 protected:
  ~ShardPoolEvents() = default;
};

// Loop thread only.
class ShardPool final : private kj::TaskSet::ErrorHandler {
 public:
  ShardPool(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log, failpoints::Failpoints& failpoints,
            const Options& options, ServiceTotals& totals, ShardPoolEvents& owner);

  // Takes over what lives of a predecessor's shards and starts the rest. Resolves when each has been up once,
  // or was found not to come up and is being replaced.
  kj::Promise<void> begin(Inheritance& inherited);
  // Starts further shards, up to `count` in all.
  kj::Promise<void> grow(std::uint32_t count);
  // Ends the last shards, down to `count` in all, as far as they are up: one that is being replaced stays, with
  // those before it. The caller knows that they serve nothing.
  void shrink(std::uint32_t count);

  // Replaces a shard that is up by a new process: that one is started and greeted first, so the gap is only
  // the time it takes to attach. Resolves when the new one serves. Fails, the old one serving on, where it
  // does not come up.
  kj::Promise<void> replace(std::uint32_t index);

  std::uint32_t size() const { return size_; }
  // The live process of a shard that answers; nothing while it is being replaced or started.
  ShardHandle* up(std::uint32_t index);
  // Whether up() gives it.
  bool isUp(std::uint32_t index) const { return index < size_ && seats_[index].up; }
  // The live process, up or coming up.
  ShardHandle* process(std::uint32_t index);
  // Whether the process of a shard is this one, and alive.
  bool lives(std::uint32_t index, pid_t pid);
  // Deaths of a shard, those under former coordinators included.
  std::uint64_t restarts(std::uint32_t index) const { return totals_.shardRestarts[index]; }

  // How long its last recovery took, ns; 0 where there was none.
  std::uint64_t recoveryNs(std::uint32_t index) const { return seats_[index].recoveryNs; }

  // SIGKILLs a shard and waits until it can do nothing more. Its death is then handled like any other. Blocks
  // for some 100 us. false: it has not died yet (it hangs in the kernel); ask again later, that is only a
  // look.
  bool fence(std::uint32_t index, const std::string& why);
  // SIGKILLs every shard; resolves when no shard that lives now can do anything more.
  kj::Promise<void> endAll(const std::string& why);

 private:
  struct Seat {
    kj::Maybe<kj::Own<ShardHandle>> handle;
    bool up = false;
    bool pinging = false;
    pid_t killed = 0;               // process that was sent SIGKILL, and may not have ended
    std::uint32_t quickDeaths = 0;  // in a row, each soon after its start
    std::uint64_t diedAt = 0;       // ns; 0: no death to be recovered from
    std::uint64_t recoveryNs = 0;
    std::string death;
  };

  kj::Promise<void> startSeat(std::uint32_t index);
  kj::Promise<void> bringUp(std::uint32_t index);
  void watch(std::uint32_t index);
  // Resolves when a living process would have answered.
  kj::Promise<void> limit();
  // Resolves when a process that may have been started just now would have answered.
  kj::Promise<void> greetingLimit(const ShardHandle& handle);
  // How long we may stand still for a process that was killed.
  std::chrono::milliseconds patience() const;
  void kill(std::uint32_t index, const std::string& why);
  kj::Promise<void> whenEnded(std::vector<std::pair<std::uint32_t, pid_t>> dying);
  kj::Promise<void> putIn(std::uint32_t index, pid_t former, kj::Own<ShardHandle> fresh);
  // Replaces a process that lives and does not answer.
  kj::Promise<void> pingAll();
  kj::Promise<void> pingOne(std::uint32_t index);
  void died(std::uint32_t index);
  void taskFailed(kj::Exception&& exception) override;

  kj::AsyncIoContext& io_;
  SupervisorLink& link_;
  EventLog& log_;
  failpoints::Failpoints& failpoints_;
  const Options& options_;
  ServiceTotals& totals_;
  ShardPoolEvents& owner_;
  std::array<Seat, shm::MAX_SHARDS> seats_;  // handlers hold references to them
  std::uint32_t size_ = 0;                   // seats that are shards: those from here on have no process
  // Replaced or needed no more, and killed for it: until their ends have been noticed.
  std::map<pid_t, kj::Own<ShardHandle>> retired_;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
