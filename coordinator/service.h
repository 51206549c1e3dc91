// The coordinator as a whole: its restores, its shards, and how it takes over from a predecessor.
#pragma once

#include <kj/async-io.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/configured_listeners.h"
#include "coordinator/drain.h"
#include "coordinator/election.h"
#include "coordinator/ended_restores.h"
#include "coordinator/event_log.h"
#include "coordinator/fetcher.h"
#include "coordinator/listeners.h"
#include "coordinator/lost_restores.h"
#include "coordinator/options.h"
#include "coordinator/page_suspects.h"
#include "coordinator/placed_listeners.h"
#include "coordinator/refused_targets.h"
#include "coordinator/restore.h"
#include "coordinator/restores.h"
#include "coordinator/service_counters.h"
#include "coordinator/service_end.h"
#include "coordinator/shard_pool.h"
#include "coordinator/store_retry.h"
#include "coordinator/supervisor_link.h"
#include "coordinator/takeover.h"
#include "coordinator/upgrade.h"
#include "rpc/connection.h"

namespace faultline::coordinator {

// Loop thread only.
class Service final : private ShardPoolEvents, private kj::TaskSet::ErrorHandler {
 public:
  Service(kj::AsyncIoContext& io, SupervisorLink& link, Inheritance inherited, Options options);
  ~Service() noexcept(false);

  // Takes over what was left, serves, and returns when it has been told to end (or the supervisor has gone).
  kj::Promise<void> run();

  // --- what the control interface asks for; failures are exceptions with a message for people ---
  // Makes what a restore needs, in a thread of its own: a large one takes its time. Its name is the one asked for, with a
  // number behind it if that is taken. `source` is borrowed until this returns.
  kj::Promise<PreparedRestore> prepare(RestoreSpec spec, int source);
  // Begins it; returns its name.
  std::string begin(PreparedRestore prepared, RestoreFds fds);
  std::shared_ptr<Restore> find(const std::string& name);
  // The restore that shard `index` says something of. Refuses (forbidden) where it has not been asked to
  // serve that.
  std::shared_ptr<Restore> servedBy(std::uint64_t id, std::uint32_t index);
  const Restores& restores() const { return restores_; }
  // Every restore that is not over, by id, with its pages by state, which are counted in steps.
  kj::Promise<CountedRestores> counted() { return countEach(restores_, io_.provider->getTimer()); }
  kj::Promise<void> reshard(const std::string& name, std::uint32_t shards);
  Listeners& listeners() { return listeners_; }
  PlacedListeners& placed() { return placed_; }
  ConfiguredListeners& configured() { return configured_; }
  // The end of the service; run() returns when it is over.
  ServiceEnd& end() { return end_; }
  Drain& drain() { return drain_; }
  Upgrade& upgrade() { return upgrade_; }

  const Options& options() const { return options_; }
  EventLog& events() { return log_; }
  const EndedRestores& ended() const { return ended_; }
  ServiceTotals& totals() { return *counters_; }
  // Notes that the target of a restore has lost something.
  void lost(const std::string& event, const std::string& restore) { log_.lost(event, restore); }
  ShardPool& pool() { return pool_; }
  Fetcher& fetcher() { return fetcher_; }
  failpoints::Failpoints& failpoints() { return failpoints_; }
  SupervisorLink& link() { return link_; }
  // From the predecessor's death to our serving, ns; 0: there was none.
  std::uint64_t takeoverNs() const { return takeover_.ns(); }
  std::uint32_t incarnation() const { return inherited_.incarnation; }
  kj::AsyncIoContext& io() { return io_; }

 private:
  void sayReady();
  std::string statusLine() const;
  void leave(SupervisorLink::End why);
  void keep(const std::shared_ptr<Restore>& restore);
  void watch(const std::shared_ptr<Restore>& restore);
  void giveMemoryBack();
  void endIdleShards();
  void endFormerOwners(const std::shared_ptr<Restore>& restore);
  kj::Promise<void> pingSupervisor();
  void requireRoom() const;
  // The restore as which this userfaultfd is served.
  std::optional<std::string> servedAs(int uffd) const;
  void requireNotServed(int uffd) const;
  std::string freeName(const std::string& wanted) const;

  void shardDied(std::uint32_t index, Death death) override;
  kj::Promise<void> shardUp(ShardHandle& shard, std::vector<std::uint64_t> has) override;
  kj::Promise<void> shardLeaves(ShardHandle& shard) override;
  rpc::ShardEvents::Client eventsFor(std::uint32_t index) override;
  void taskFailed(kj::Exception&& exception) override;

  kj::AsyncIoContext& io_;
  SupervisorLink& link_;
  Inheritance inherited_;
  bool adopted_ = false;  // all that was inherited: each restore is served, or lost
  bool ready_ = false;    // faults can be served, and the supervisor knows
  const Election election_;
  const Options options_;
  failpoints::Failpoints failpoints_;
  const ServiceCounters counters_;
  EventLog log_;
  EndedRestores ended_;
  ShardPool pool_;
  Upgrade upgrade_;
  kj::Own<CpuLatency> latency_;  // null: none is asked for
  ReadingTurns turns_;
  RefusedTargets refused_;
  Populations populations_;
  Fetcher fetcher_;
  RestoreContext context_;
  std::set<std::string> preparing_;  // names of restores that are not begun yet
  Restores restores_;
  LostRestores lost_;
  StoreRetry storing_;
  bool givingBack_ = false;
  std::uint32_t reshards_ = 0;  // under way
  Listeners listeners_;
  Takeover takeover_;
  PlacedListeners placed_{listeners_, fetcher_};
  ConfiguredListeners configured_{listeners_, fetcher_, log_};
  ServiceEnd end_;
  Drain drain_{context_, restores_, listeners_, end_};
  PageSuspects suspects_;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
