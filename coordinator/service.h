// The coordinator as a whole: its listeners and restores, and how it takes over from a predecessor.
#pragma once

#include <kj/async-io.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/election.h"
#include "coordinator/event_log.h"
#include "coordinator/listener.h"
#include "coordinator/lost_restores.h"
#include "coordinator/options.h"
#include "coordinator/page_suspects.h"
#include "coordinator/restore.h"
#include "coordinator/service_counters.h"
#include "coordinator/shard_pool.h"
#include "coordinator/supervisor_link.h"
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
  const std::map<std::uint64_t, std::shared_ptr<Restore>>& restores() const { return restores_; }
  struct CountedRestore {
    std::shared_ptr<Restore> restore;
    shm::PageCounts counts;
  };
  using CountedRestores = std::shared_ptr<std::vector<CountedRestore>>;
  // Every restore that is not over, by id, with its pages by state, which are counted in steps.
  kj::Promise<CountedRestores> counted();
  std::shared_ptr<Listener> listen(ListenerSpec spec, kj::AutoCloseFd socket, SourceFiles source);
  void closeListener(const std::string& name);
  // Closes this listener if it is open: its name may be another's by now.
  void close(const Listener& listener);
  // Refused while pages are missing, unless forced; else as end().
  kj::Promise<void> shutdown(bool force);
  // Refuses new targets, fetches what is missing within the limits, lets every target go, and has run()
  // return. Asked again, or `now`: fetches no more. What is missing then is poisoned, or its target killed.
  void end(const std::string& why, bool now);
  bool ending() const { return ending_.has_value(); }
  kj::Promise<void> reshard(const std::string& name, std::uint32_t shards);
  Upgrade& upgrade() { return upgrade_; }

  const Options& options() const { return options_; }
  const EventLog& events() const { return log_; }
  ServiceTotals& totals() { return *counters_; }
  void note(const std::string& event) { log_.add(event); }
  ShardPool& pool() { return pool_; }
  failpoints::Failpoints& failpoints() { return failpoints_; }
  SupervisorLink& link() { return link_; }
  // From the predecessor's death to our serving, ns; 0: there was none.
  std::uint64_t takeoverNs() const { return takeoverNs_; }
  std::uint32_t incarnation() const { return inherited_.incarnation; }
  kj::AsyncIoContext& io() { return io_; }

 private:
  void adoptFailpoints();
  void adoptListeners();
  void adoptListener(const process::KeptName& spec);
  std::shared_ptr<Listener> makeListener(process::Origin origin, ListenerSpec spec, SourceFiles source);
  kj::Promise<void> adoptRestores();
  void adoptConnections();
  bool killsOnLost(int source) const;
  void storeAgain(const process::KeptName& name);
  // Ends this process as if it had been killed: the supervisor starts another, which begins again.
  [[noreturn]] void giveUp(const kj::Exception& why);
  void sayReady();
  void endAsked(bool now);
  void fetchNoMore(const std::string& why);
  kj::Promise<void> watchEnd();
  kj::Promise<void> watchEnd(std::uint64_t missing);
  void giveUpRestores();
  std::string statusLine() const;
  void leave(SupervisorLink::End why);
  void keep(const std::shared_ptr<Restore>& restore);
  void watch(const std::shared_ptr<Restore>& restore);
  void giveMemoryBack();
  void endIdleShards();
  void endFormerOwners(const std::shared_ptr<Restore>& restore);
  kj::Promise<void> pingSupervisor();
  kj::Promise<void> countOn(CountedRestores restores, std::size_t next);
  void requireRoom() const;
  void requireNotServed(int uffd) const;
  std::string freeName(const std::string& wanted) const;
  void connectionAccepted(const process::KeptName& name, kj::AutoCloseFd fd);

  void shardDied(std::uint32_t index, Death death) override;
  kj::Promise<void> shardUp(ShardHandle& shard, std::vector<std::uint64_t> has) override;
  kj::Promise<void> shardLeaves(ShardHandle& shard) override;
  rpc::ShardEvents::Client eventsFor(std::uint32_t index) override;
  void taskFailed(kj::Exception&& exception) override;

  kj::AsyncIoContext& io_;
  SupervisorLink& link_;
  Inheritance inherited_;
  std::uint64_t takeoverNs_ = 0;
  bool adopted_ = false;  // all that was inherited: each restore is served, or lost
  bool ready_ = false;    // faults can be served, and the supervisor knows
  struct Ending {
    std::string why;
    std::uint64_t began;  // ns
    std::uint64_t progressed = began, told = 0;
    std::uint64_t missing = ~0ull;  // pages, the fewest so far; none counted yet
    std::uint64_t lettingGo = 0;    // since when nothing is fetched any more; 0: it is
  };
  std::optional<Ending> ending_;
  std::optional<bool> endAsked_;  // before everything was adopted; whether at once
  const Election election_;
  const Options options_;
  failpoints::Failpoints failpoints_;
  EventLog log_;
  const ServiceCounters counters_;
  ShardPool pool_;
  Upgrade upgrade_;
  kj::Own<CpuLatency> latency_;  // null: none is asked for
  ReadingTurns turns_;
  RestoreContext context_;
  std::set<std::string> preparing_;  // names of restores that are not begun yet
  std::map<std::uint64_t, std::shared_ptr<Restore>> restores_;
  LostRestores lost_;
  bool storingAgain_ = false;
  bool givingBack_ = false;
  std::uint32_t reshards_ = 0;  // under way
  std::map<std::string, std::shared_ptr<Listener>> listeners_;
  PageSuspects suspects_;
  kj::Own<kj::PromiseFulfiller<void>> ended_;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
