#include "coordinator/coordinator_server.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include "coordinator/call_inputs.h"
#include "coordinator/door.h"
#include "coordinator/hooks_server.h"
#include "coordinator/restore_server.h"
#include "coordinator/service.h"
#include "process/build.h"
#include "process/clock.h"
#include "process/pid_of.h"
#include "rpc/answering.h"
#include "rpc/convert.h"
#include "rpc/fd.h"
#include "rpc/hooks.capnp.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

void fill(rpc::ServiceTotals::Builder to, const ServiceTotals& totals) {
  to.setTakeovers(totals.takeovers);
  to.setRestoresBegun(totals.restoresBegun);
  to.setRestoresFailed(totals.restoresFailed);
  to.setTargetsRefused(totals.targetsRefused);
  to.setPagesLost(totals.pagesLost);
  rpc::fill(to.initShardRecovery(), totals.shardRecovery);
  rpc::fill(to.initCoordinatorRecovery(), totals.coordinatorRecovery);
}

// The files of a call, which can be the layers of one source.
kj::Promise<SourceFiles> stackOf(Fetcher& fetcher, rpc::SourceSpec::Reader source) {
  for (const std::string& name : namesOf(source)) requireSourceName(name);
  return filesOf(source).then([&fetcher, names = namesOf(source)](SourceFiles files) {
    return checkedStack(fetcher, kj::mv(files), names);
  });
}

class ListenerServer final : public rpc::Answering<rpc::Listener> {
 public:
  ListenerServer(Service& service, std::shared_ptr<Listener> listener)
      : service_(service), listener_(std::move(listener)) {}

  // A call is about a target of its own, in the order of the calls.
  kj::Promise<void> nextRestore(NextRestoreContext context) override {
    const std::size_t mine = asked_++;
    return listener_->whenMoreThan(mine).then([this, context, mine]() mutable {
      auto restore = service_.find(listener_->names()[mine]);
      return restore->counts().then([restore, context](const shm::PageCounts& counts) mutable {
        restore->fill(context.getResults().initInfo(), counts);
        context.getResults().setRestore(makeRestoreServer(restore));
      });
    });
  }

  kj::Promise<void> close(CloseContext) override { return service_.listeners().close(*listener_); }

  kj::Promise<void> lastError(LastErrorContext context) override {
    auto results = context.getResults();
    results.setMessage(listener_->lastError().message.c_str());
    results.setReason(listener_->lastError().reason);
    results.setRefused(listener_->refused());
    return kj::READY_NOW;
  }

 private:
  Service& service_;
  std::shared_ptr<Listener> listener_;
  std::size_t asked_ = 0;
};

// A shard is trusted with the restores that it was asked to serve, and with nothing that can be looked up.
class ShardEventsServer final : public rpc::Answering<rpc::ShardEvents> {
 public:
  ShardEventsServer(Service& service, std::uint32_t index) : service_(service), index_(index) {}

  // The kernel tells us of the target itself, so the caller need not be trusted.
  kj::Promise<void> targetGone(TargetGoneContext context) override {
    auto restore = served(context.getParams().getRestore());
    const pid_t pid = service_.pool().process(index_)->pid();
    return restore->endIfGone("the target's memory has gone").then([this, restore, pid](Presence memory) {
      if (memory == Presence::there && service_.pool().lives(index_, pid))
        service_.pool().fence(index_, "it says that the target of restore " + restore->name() +
                                          " has gone, which is not so, and serves it no more");
    });
  }

  kj::Promise<void> pagePoisoned(PagePoisonedContext context) override {
    auto params = context.getParams();
    note(*served(params.getRestore()), params.getPage(), "is poisoned", params.getReason());
    return kj::READY_NOW;
  }

  kj::Promise<void> pageLost(PageLostContext context) override {
    auto params = context.getParams();
    auto restore = served(params.getRestore());
    note(*restore, params.getPage(), "is lost", params.getReason());
    restore->pageLost(params.getPage());
    return kj::READY_NOW;
  }

  kj::Promise<void> restoreFailed(RestoreFailedContext context) override {
    auto params = context.getParams();
    auto restore = served(params.getRestore());
    restore->fail(rpc::isFailure(params.getWhy()) ? params.getWhy() : rpc::EndReason::SERVER_FAILED,
                  saidByShard(params.getText()));
    return kj::READY_NOW;
  }

 private:
  std::shared_ptr<Restore> served(std::uint64_t id) { return service_.servedBy(id, index_); }

  void note(Restore& restore, std::uint64_t page, const char* what, kj::StringPtr why) {
    if (page >= restore.segment().pages().pageCount())
      rpc::refuse(rpc::Reason::BAD_INPUT,
                  "restore " + restore.name() + " has no page " + std::to_string(page));
    shm::count(service_.totals().pagesLost);
    service_.lost("restore " + restore.name() + ": page " + std::to_string(page) + " " + what + " (shard " +
                      std::to_string(index_) + "): " + saidByShard(why),
                  restore.name());
  }

  Service& service_;
  const std::uint32_t index_;
};

class CoordinatorServer final : public rpc::Answering<rpc::TestCoordinator> {
 public:
  explicit CoordinatorServer(Service& service) : service_(service) {}

  kj::Promise<void> attach(AttachContext context) override {
    if (service_.drain().underWay())
      rpc::refuse(rpc::Reason::ENDING, "the service is being drained: no new target is served");
    auto params = context.getParams();
    auto fds = kj::heapArrayBuilder<kj::Promise<kj::AutoCloseFd>>(2);
    fds.add(rpc::requireFd(params.getUffd(), "uffd"));
    fds.add(params.hasTarget() ? rpc::optionalFd(params.getTarget())
                               : kj::Promise<kj::AutoCloseFd>(kj::AutoCloseFd()));
    auto source = stackOf(service_.fetcher(), params.getSource());
    return kj::joinPromises(fds.finish())
        .then([this, context, source = kj::mv(source)](kj::Array<kj::AutoCloseFd> got) mutable {
          return source.then([this, context, got = kj::mv(got)](SourceFiles files) mutable {
            return attach(context, {kj::mv(got[0]), kj::mv(files), kj::AutoCloseFd(), kj::mv(got[1])});
          });
        });
  }

  kj::Promise<void> list(ListContext context) override {
    return service_.counted().then([context](const CountedRestores& restores) mutable {
      fillRestores(context.getResults().initRestores(static_cast<unsigned>(restores->size())), restores);
    });
  }

  kj::Promise<void> restore(RestoreContext context) override {
    context.getResults().setRestore(makeRestoreServer(service_.find(context.getParams().getName().cStr())));
    return kj::READY_NOW;
  }

  kj::Promise<void> listen(ListenContext context) override {
    auto params = context.getParams();
    auto source = stackOf(service_.fetcher(), params.getSource());
    return rpc::requireFd(params.getSocket(), "socket")
        .then([this, context, source = kj::mv(source)](kj::AutoCloseFd socket) mutable {
          return source.then([this, context, socket = kj::mv(socket)](SourceFiles files) mutable {
            auto params = context.getParams();
            auto spec = listenerSpecFrom(params.getSpec(), namesOf(params.getSource()), files);
            auto listener = service_.listeners().listen(process::Origin::call, std::move(spec),
                                                        kj::mv(socket), kj::mv(files));
            context.getResults().setListener(kj::heap<ListenerServer>(service_, kj::mv(listener)));
          });
        });
  }

  kj::Promise<void> listenAt(ListenAtContext context) override {
    return service_.placed()
        .listen(process::Origin::call, context.getParams().getPlaced())
        .then([this, context](std::shared_ptr<Listener> listener) mutable {
          context.getResults().setListener(kj::heap<ListenerServer>(service_, std::move(listener)));
        });
  }

  kj::Promise<void> configure(ConfigureContext context) override {
    return service_.configured()
        .configure(context.getParams().getListeners())
        .then([context](ConfiguredListeners::Counts counts) mutable {
          auto results = context.getResults();
          results.setAdded(counts.added);
          results.setChanged(counts.changed);
          results.setRemoved(counts.removed);
        });
  }

  kj::Promise<void> listeners(ListenersContext context) override {
    const auto& all = service_.listeners().all();
    auto list = context.getResults().initListeners(static_cast<unsigned>(all.size()));
    unsigned at = 0;
    for (const auto& [name, listener] : all) listener->fill(list[at++]);
    return kj::READY_NOW;
  }

  kj::Promise<void> unlisten(UnlistenContext context) override {
    return service_.listeners().close(context.getParams().getName().cStr());
  }

  kj::Promise<void> status(StatusContext context) override {
    return service_.counted().then([this, context](const CountedRestores& restores) mutable {
      fillStatus(context, restores);
      return service_.fetcher().fill(context.getResults().getService().initFetcher());
    });
  }

  kj::Promise<void> shutdown(ShutdownContext context) override {
    return service_.end().shutdown(context.getParams().getForce());
  }

  kj::Promise<void> drain(DrainContext context) override {
    context.allowCancellation();  // a caller that goes ends it: the service goes on as it was
    return service_.drain().run();
  }

  kj::Promise<void> testHooks(TestHooksContext context) override {
    if (!service_.options().testHooks)
      rpc::refuse(rpc::Reason::FORBIDDEN, "this server was not started with --test-hooks");
    context.getResults().setHooks(makeTestHooks(service_));
    return kj::READY_NOW;
  }

  kj::Promise<void> reshard(ReshardContext context) override {
    auto params = context.getParams();
    return service_.reshard(params.getRestore().cStr(), params.getShards());
  }

  kj::Promise<void> upgrade(UpgradeContext context) override {
    auto params = context.getParams();
    const std::string directory = params.getDirectory().cStr();
    requireBuildDirectory(directory);
    if (!params.getCheckOnly()) return service_.upgrade().handOver(directory);
    return service_.upgrade().check(directory).then([context](const process::BuildFacts& next) mutable {
      context.getResults().setVersion(next.version.c_str());
    });
  }

  // An event ends the wait of all callers; a wait goes with its connection.
  kj::Promise<void> events(EventsContext context) override {
    const std::uint64_t after = context.getParams().getAfter();
    context.allowCancellation();
    return service_.events().whenBehind(after).then(
        [this, context, after]() mutable { service_.events().fill(context.getResults(), after); });
  }

  // The latest first.
  kj::Promise<void> ended(EndedContext context) override {
    service_.ended().fill(context.getResults(), context.getParams().getName().cStr());
    return kj::READY_NOW;
  }

  kj::Promise<void> waitUpgraded(WaitUpgradedContext context) override {
    return service_.upgrade().whenOver().then([context](std::uint32_t replaced) mutable {
      context.getResults().setVersion(process::version());
      context.getResults().setReplaced(replaced);
    });
  }

 private:
  kj::Promise<void> attach(AttachContext context, RestoreFds fds) {
    auto params = context.getParams();
    auto spec = params.getSpec();
    if (!uffd::isUserfaultfd(fds.uffd.get()))
      rpc::refuse(rpc::Reason::BAD_TARGET, "the fd given as uffd is no userfaultfd");
    RestoreSpec wanted;
    wanted.name = spec.getName().cStr();
    if (!wanted.name.empty()) requireName(wanted.name);
    wanted.layerNames = namesOf(params.getSource());
    wanted.regions = regionsFromCall(spec.getRegions());
    rpc::because(rpc::Reason::BAD_TARGET, [&] { wanted.uffdFeatures = uffdFeatures(fds.uffd.get()); });
    wanted.policy = policyFrom(spec.getPolicy(), fds.source.back().content());
    wanted.requireServable(fds.source.back().content());
    auto looked = whyNotRegistered(fds.uffd.get(), wanted.regions,
                                   fds.target.get() >= 0 ? process::pidOf(fds.target.get()) : 0);
    return looked.then([this, context, wanted = std::move(wanted),
                        fds = kj::mv(fds)](std::optional<std::string> why) mutable {
      if (why.has_value()) rpc::refuse(rpc::Reason::BAD_TARGET, *why);
      auto prepared = service_.prepare(std::move(wanted), fds.source.back().content());
      return prepared.then([this, context, fds = kj::mv(fds)](PreparedRestore ready) mutable {
        const std::string name = service_.begin(std::move(ready), kj::mv(fds));
        context.getResults().setRestore(makeRestoreServer(service_.find(name)));
      });
    });
  }

  static void fillRestores(capnp::List<rpc::RestoreInfo>::Builder list, const CountedRestores& restores) {
    for (unsigned i = 0; i < list.size(); i++) (*restores)[i].restore->fill(list[i], (*restores)[i].counts);
  }

  void fillStatus(StatusContext context, const CountedRestores& restores) {
    auto info = context.getResults().initService();
    const Options& options = service_.options();
    info.setVersion(process::version());
    info.setCoordinatorPid(static_cast<std::uint32_t>(getpid()));
    info.setIncarnation(service_.incarnation());
    info.setTakeoverNs(service_.takeoverNs());
    fill(info.initTotals(), service_.totals());
    info.setTestHooks(options.testHooks);
    info.setWorkersPerShard(threadsOf(options));
    info.setLockDeadlineNs(
        static_cast<std::uint64_t>(std::chrono::nanoseconds(options.lockDeadline).count()));
    fillShards(info.initShards(service_.pool().size()));
    fillRestores(info.initRestores(static_cast<unsigned>(restores->size())), restores);
    const auto& latest = service_.events().latest();
    auto events = info.initEvents(static_cast<unsigned>(latest.size()));
    for (unsigned i = 0; i < latest.size(); i++) coordinator::fill(events[i], latest[i]);
  }

  void fillShards(capnp::List<rpc::ShardInfo>::Builder list) {
    for (std::uint32_t i = 0; i < list.size(); i++) {
      list[i].setIndex(i);
      list[i].setRestarts(static_cast<std::uint32_t>(service_.pool().restarts(i)));
      list[i].setRecoveryNs(service_.pool().recoveryNs(i));
      ShardHandle* shard = service_.pool().up(i);
      list[i].setAlive(shard != nullptr);
      if (shard == nullptr) continue;
      list[i].setPid(static_cast<std::uint32_t>(shard->pid()));
      list[i].setVersion(shard->version().c_str());
      list[i].setUpNs(process::nowNs() - shard->startedAt());
      std::uint32_t attached = 0;
      for (const auto& [id, restore] : service_.restores()) attached += restore->servedBy(i) ? 1 : 0;
      list[i].setRestores(attached);
    }
  }

  Service& service_;
};

}  // namespace

rpc::Coordinator::Client makeCoordinatorServer(Service& service) {
  return kj::heap<CoordinatorServer>(service);
}

rpc::ShardEvents::Client makeShardEvents(Service& service, std::uint32_t index) {
  return kj::heap<ShardEventsServer>(service, index);
}

}  // namespace faultline::coordinator
