#include "coordinator/drain.h"

#include <cstdint>
#include <utility>

#include "rpc/refusal.h"

namespace faultline::coordinator {

using rpc::Reason;

namespace {

constexpr kj::Duration LOOK_EVERY_SO_OFTEN = 50 * kj::MILLISECONDS;

[[noreturn]] void giveUp(Reason reason, const std::string& name, const std::string& why) {
  rpc::refuse(reason, "the service is not drained, and goes on as it was: restore " + name + " " + why);
}

}  // namespace

// The jobs that were asked for on behalf of the drain, by restore.
struct Drain::Jobs {
  struct One {
    std::weak_ptr<Restore> restore;
    std::shared_ptr<PrefaultJob> job;
  };
  std::map<std::uint64_t, One> all;
};

kj::Promise<void> Drain::run() {
  if (underWay_) rpc::refuse(Reason::NOT_READY, "the service is being drained already");
  if (end_.begun()) rpc::refuse(Reason::ENDING, "the service is ending");
  for (const auto& [id, restore] : restores_) restore->requireDrainable();
  underWay_ = true;
  listeners_.hold(true);
  context_.log.planned("the service is drained: no new targets, " + std::to_string(restores_.size()) +
                       " restores are populated");
  auto jobs = std::make_shared<Jobs>();
  return kj::evalNow([&] { return look(jobs); }).attach(kj::defer([this, jobs] {
    underWay_ = false;
    if (end_.begun()) return;
    for (auto& [id, one] : jobs->all)
      if (const auto restore = one.restore.lock(); restore != nullptr && !one.job->finished())
        restore->population().cancel(*one.job);
    context_.log.planned("the service is not drained, and goes on as it was");
    listeners_.hold(false);
  }));
}

// Asks each restore once; a target whose handshake was under way may come yet.
void Drain::populate(Jobs& jobs) {
  for (const auto& [id, restore] : restores_) {
    restore->requireDrainable();
    if (jobs.all.count(id) == 0 && !restore->populatesEverything())
      jobs.all[id] = {restore, restore->population().begin({})};
  }
}

kj::Promise<void> Drain::look(const std::shared_ptr<Jobs>& jobs) {
  populate(*jobs);
  return countEach(restores_, context_.io.provider->getTimer())
      .then([this, jobs](const CountedRestores& counted) -> kj::Promise<void> {
        bool complete = true;
        for (const CountedRestore& one : *counted) {
          const Restore& restore = *one.restore;
          if (restore.over() || one.counts.missing == 0) continue;
          complete = false;
          if (one.restore->population().lacksMemory())
            giveUp(Reason::PAGES_MISSING, restore.name(),
                   "cannot be completed: " + one.restore->population().whyHeld());
          const auto job = jobs->all.find(restore.id());
          if (job != jobs->all.end() && job->second.job->finished() && !restore.populating())
            giveUp(Reason::PAGES_MISSING, restore.name(),
                   "cannot be completed: " + std::to_string(one.counts.missing) + " pages are not to be had");
        }
        if (complete && counted->size() >= restores_.size()) {
          end_.begin("drained", false);
          return kj::READY_NOW;
        }
        return context_.io.provider->getTimer().afterDelay(LOOK_EVERY_SO_OFTEN).then([this, jobs] {
          return look(jobs);
        });
      });
}

}  // namespace faultline::coordinator
