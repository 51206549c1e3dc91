#include "coordinator/lost_restores.h"

#include <capnp/message.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "coordinator/ended_restores.h"
#include "coordinator/event_log.h"
#include "coordinator/look.h"
#include "coordinator/registered_memory.h"
#include "coordinator/service_counters.h"
#include "coordinator/shard_pool.h"
#include "coordinator/target_watch.h"
#include "process/clock.h"
#include "process/duplicate.h"
#include "process/process.h"
#include "shmtracker/error.h"
#include "shmtracker/segment.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

bool hasTarget(const RestoreFds& fds) {
  return fds.target.get() >= 0;
}

bool kill(const RestoreFds& fds) {
  return hasTarget(fds) && process::sendSignal(fds.target.get(), SIGKILL);
}

kj::Promise<Presence> look(const RestoreFds& fds) {
  if (fds.uffd.get() >= 0) return lookWhetherThere(fds.uffd.get());
  return hasTarget(fds) && process::hasEnded(fds.target.get()) ? Presence::gone : Presence::there;
}

}  // namespace

LostRestores::~LostRestores() noexcept(false) = default;

void LostRestores::lose(std::uint64_t id, rpc::EndReason reason, const std::string& why, RestoreFds fds,
                        int segment, bool killOnLost) {
  shm::count(context_.totals.restoresFailed);
  auto lost = std::make_shared<Lost>();
  lost->id = id;
  lost->name = std::to_string(id);
  lost->fds = kj::mv(fds);
  try {
    const shm::Segment sound = shm::Segment::attach(segment);
    killOnLost = sound.facts().policy.killOnLost != 0;
    lost->name = sound.name();
    lost->regions.emplace(sound.regions().entries().begin(), sound.regions().entries().end());
  } catch (const std::exception&) {
    // The failure is why it is lost.
  }
  // Before a fault is answered: no thread goes on without its page.
  const bool killed = killOnLost && kill(lost->fds);
  context_.log.lost(
      "restore " + lost->name + " cannot be taken over: " + why + "; its target " +
          (killed ? "is killed, as --on-lost kill wants it" : "gets SIGBUS on every page it still misses"),
      lost->name);
  noteEnd(*lost, reason, "it cannot be taken over: " + why);
  // A predecessor's shards may be inside a section of it, and there is no lock to tell: before an event is read,
  // and its caller goes on, they have to be gone.
  lost->shardsEnded =
      context_.pool.endAll("restore " + lost->name + ", which it may be at work on, cannot be taken over")
          .fork();
  lost->running =
      lost->shardsEnded->addBranch()
          .then([this, &lost = *lost] {
            lost.undertaker =
                kj::heap<Undertaker>(context_.io, lost.fds.uffd.get(), lost.fds.target.get(), lost.name);
            return lost.undertaker->run();
          })
          .eagerlyEvaluate([](kj::Exception&& e) { spdlog::error("{}", e.getDescription().cStr()); });
  lost_[id] = lost;
  tasks_.add(watch(lost));
}

void LostRestores::abandon(std::uint64_t id, RestoreFds fds) {
  shm::count(context_.totals.restoresFailed);
  auto lost = std::make_shared<Lost>();
  lost->id = id;
  lost->name = std::to_string(id);
  lost->fds = kj::mv(fds);
  context_.log.lost("restore " + lost->name +
                        " cannot be taken over: there was no room for its file descriptors; its target " +
                        (kill(lost->fds) ? "is killed" : "waits for its pages for ever: kill it"),
                    lost->name);
  noteEnd(*lost, rpc::EndReason::SERVER_FAILED,
          "it cannot be taken over: there was no room for its file descriptors");
  lost_[id] = lost;
  tasks_.add(watch(lost));
}

// Notes the end of a restore that no server has any more. How far it had come is not known.
void LostRestores::noteEnd(const Lost& lost, rpc::EndReason reason, const std::string& text) {
  capnp::MallocMessageBuilder message;
  auto ended = message.initRoot<rpc::EndedRestore>();
  auto info = ended.initInfo();
  info.setId(lost.id);
  info.setName(lost.name.c_str());
  info.setPhase(rpc::Phase::FAILED);
  info.setFailure(reason);
  info.setFailureText(text.c_str());
  ended.setReason(reason);
  ended.setText(text.c_str());
  ended.setEndedUnixNs(process::unixNs());
  context_.ended.note(ended, EndedRestores::Fds::held);
}

std::optional<std::uint64_t> LostRestores::withUserfaultfd(int uffd) const {
  for (const auto& [id, lost] : lost_)
    if (uffd::sameUserfaultfd(uffd, lost->fds.uffd.get())) return id;
  return std::nullopt;
}

// Holds the lost restore until its target has gone.
kj::Promise<void> LostRestores::watch(const std::shared_ptr<Lost>& lost) {
  return context_.io.provider->getTimer()
      .afterDelay(LOOK_EVERY)
      .then([lost] { return look(lost->fds); })
      .catch_([](kj::Exception&&) { return Presence::unknown; })  // a thread cannot be had just now
      .then([this, lost](Presence memory) -> kj::Promise<void> {
        if (memory != Presence::gone) return watch(lost);
        spdlog::info("restore {}, which could not be taken over: its target has gone", lost->name);
        lost_.erase(lost->id);
        RestoreFds::drop(context_.link, lost->id, process::MOST_LAYERS);
        for (std::uint32_t i = 0; i < context_.pool.size(); i++)
          if (ShardHandle* shard = context_.pool.up(i))
            shard->detach(lost->id).detach([](kj::Exception&&) {});
        return kj::READY_NOW;
      });
}

void LostRestores::letGo() {
  for (const auto& [id, lost] : lost_)
    if (lost->fds.uffd.get() >= 0) tasks_.add(letGo(lost));
}

// A killed target, and one without a uffd of ours, has gone once watch() says so; allLetGo() waits for that.
kj::Promise<void> LostRestores::letGo(const std::shared_ptr<Lost>& lost) {
  // The undertaker reads the events that are in flight.
  return lost->shardsEnded->addBranch()
      .then([lost]() -> kj::Promise<void> {
        if (lost->regions.has_value() || !hasTarget(lost->fds)) return kj::READY_NOW;
        return lookForRegisteredMemory(lost->fds.uffd.get(), lost->fds.target.get())
            .then([lost](std::optional<std::vector<shm::RegionEntry>> found) {
              lost->regions = std::move(found);
            });
      })
      .then([this, lost]() -> kj::Promise<void> {
        if (!lost->regions.has_value()) {
          loseTarget(*lost, "what of its memory is registered is not told");
          return kj::READY_NOW;
        }
        return depart({process::duplicate(lost->fds.uffd.get()), *lost->regions,
                       DepartureOrder::Poison::unmapped})
            .then([this, lost](Departed how) { departed(*lost, how); });
      })
      .catch_([this, lost](kj::Exception&& e) { loseTarget(*lost, e.getDescription().cStr()); });
}

void LostRestores::departed(Lost& lost, Departed how) {
  if (how.unsupported) return loseTarget(lost, "this kernel cannot poison pages (Linux 6.6 can)");
  lost.letGo = true;
  shm::count(context_.totals.pagesLost, how.poisoned);
  if (how.poisoned > 0)
    context_.log.lost("restore " + lost.name +
                          ", which could not be taken over: " + std::to_string(how.poisoned) +
                          " pages are not in place, and the service ends: its target gets SIGBUS on them",
                      lost.name);
}

// Pages that it misses would read as zeros.
void LostRestores::loseTarget(Lost& lost, const std::string& why) {
  const bool killed = kill(lost.fds);
  lost.letGo = !killed;
  context_.log.lost("restore " + lost.name + ", which could not be taken over: " + why +
                        ", and the service ends: its target " +
                        (killed ? "is killed" : "waits for missing pages, or reads zeros: kill it"),
                    lost.name);
}

bool LostRestores::allLetGo() const {
  for (const auto& [id, lost] : lost_) {
    const bool waitsForNothing = lost->fds.uffd.get() < 0 && !hasTarget(lost->fds);
    if (!lost->letGo && !waitsForNothing) return false;
  }
  return true;
}

void LostRestores::giveUp() {
  for (const auto& [id, lost] : lost_) {
    if (lost->letGo) continue;
    loseTarget(*lost, "its target holds its memory locked");
    lost->letGo = true;
  }
}

void LostRestores::taskFailed(kj::Exception&& exception) {
  spdlog::error("a restore that could not be taken over: {}", exception.getDescription().cStr());
}

}  // namespace faultline::coordinator
