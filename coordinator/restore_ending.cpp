#include "coordinator/restore_ending.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "coordinator/event_log.h"
#include "coordinator/page_counting.h"
#include "coordinator/service_counters.h"
#include "process/clock.h"
#include "process/duplicate.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

using Stage = Life::Stage;

namespace {

constexpr kj::Duration LEAVE_CHECK = 200 * kj::MICROSECONDS;
constexpr std::uint64_t LEAVE_PATIENCE = 2'000'000'000;   // ns
constexpr kj::Duration KILL_PATIENCE = 10 * kj::SECONDS;  // with a target that was killed
constexpr std::size_t OUTSIDE_NOTED = 64;                 // faults that no region covers

}  // namespace

RestoreEnding::RestoreEnding(RestoreContext& context, const RestoreFds& fds, shm::Segment& segment,
                             Life& life, ShardAttachments& shards, TargetWatch& target, RangeRelease& release,
                             Owner& owner)
    : context_(context),
      fds_(fds),
      segment_(segment),
      life_(life),
      shards_(shards),
      target_(target),
      release_(release),
      owner_(owner) {}

bool RestoreEnding::faultedOutside(std::uint64_t address) {
  if (outside_.size() < OUTSIDE_NOTED) outside_.push_back(address);
  return outside_.size() == 1;
}

// Zeros in place of what the snapshot has would be wrong bytes: what is missing is made an error before
// anything is unregistered, or the target is killed before any fd is closed.
kj::Promise<void> RestoreEnding::begin() {
  return release_.stop()
      .then([this] { return countPages(timer(), segment_); })
      .then([this](const shm::PageCounts& counts) -> kj::Promise<void> {
        if (life_.over()) return kj::READY_NOW;
        life_.misses(counts.missing);
        return counts.missing == 0 && !life_.failed() ? depart() : departIncomplete();
      })
      .catch_(
          [this](kj::Exception&& e) { return keepOn(e.getDescription().cStr()); });  // lacks a thread or fd
}

kj::Promise<void> RestoreEnding::depart() {
  return coordinator::depart(departure(DepartureOrder::Poison::nothing)).then([this](Departed how) {
    return departed(how);
  });
}

kj::Promise<void> RestoreEnding::departIncomplete() {
  // To have no memory of its own is no reason to kill a target.
  return anyRegistered(departure(DepartureOrder::Poison::nothing)).then([this](bool any) {
    if (life_.over()) return kj::Promise<void>(kj::READY_NOW);
    if (any) return loseMissing();
    if (!life_.failed()) {
      life_.ends(rpc::EndReason::TARGET_GONE, NOTHING_LEFT);
      life_.misses(0);
    }
    return depart();
  });
}

DepartureOrder RestoreEnding::departure(DepartureOrder::Poison poison) const {
  DepartureOrder order{process::duplicate(fds_.uffd.get()), {}, poison};
  for (const shm::RegionEntry& region : segment_.regions().entries()) order.regions.push_back(region);
  if (poison == DepartureOrder::Poison::missing || !life_.failed())
    order.segment = process::duplicate(segment_.fd());
  if (fds_.target.get() >= 0) order.target = process::duplicate(fds_.target.get());
  order.faultedOutside = outside_;
  return order;
}

kj::Promise<void> RestoreEnding::loseMissing() {
  const std::string missing = std::to_string(life_.end().missing);
  if (segment_.facts().policy.killOnLost != 0 &&
      target_.kill(missing + " pages are missing, and the restore ends")) {
    context_.log.lost(restore() + ": " + missing + " pages could not be fetched before its end (" +
                          life_.end().text + "); its target is killed",
                      segment_.name());
    // If another process has the memory, that one gets errors.
    return timer().afterDelay(KILL_PATIENCE).then([this] {
      return life_.over() ? kj::Promise<void>(kj::READY_NOW) : poisonMissing();
    });
  }
  return poisonMissing();
}

kj::Promise<void> RestoreEnding::poisonMissing() {
  // A restore that is being dealt out gets new shards until that is over.
  return owner_.whenFormerOwnersHaveLeft()
      .then([this] { return shards_.leaveAll(); })
      .then([this] {
        if (life_.may(Stage::departing)) life_.become(Stage::departing);
        return coordinator::depart(
            departure(life_.failed() ? DepartureOrder::Poison::unmapped : DepartureOrder::Poison::missing));
      })
      .then([this](Departed how) { return departed(how); });
}

kj::Promise<void> RestoreEnding::departed(Departed how) {
  if (life_.over()) return kj::READY_NOW;
  shm::count(context_.totals.pagesLost, how.poisoned);
  if (how.poisoned > 0)
    context_.log.lost(restore() + ": " + std::to_string(how.poisoned) +
                          " pages could not be fetched before its end (" + life_.end().text +
                          "); its target gets SIGBUS on them",
                      segment_.name());
  if (how.unsupported) {
    const std::string pages = std::to_string(life_.end().missing);
    const bool killed =
        fds_.target.get() >= 0 && target_.kill("this kernel cannot poison pages (Linux 6.6 can)");
    context_.log.lost(restore() + ": " + pages + " pages could not be fetched before its end (" +
                          life_.end().text + "), and this kernel cannot poison them: its target " +
                          (killed ? "is killed" : "waits for them, or reads zeros: kill it"),
                      segment_.name());
  }
  if (how.unnamed > 0)
    spdlog::info("restore {}: {} bytes that were registered, and named in no region, are registered no more",
                 segment_.name(), how.unnamed);
  // A target that is told of the end may have another userfaultfd served at the same addresses.
  if (how.kept == 0)
    return shards_.leaveAll().then([this] { return leave(process::nowNs() + LEAVE_PATIENCE); });
  return keepOn(std::to_string(how.kept) + " bytes of it, the first at " +
                fmt::format("{:#x}", how.firstKept) +
                ", cannot be unregistered (has the target as many mappings as vm.max_map_count allows?)");
}

// Registered memory without a server would have its threads wait for ever, or read zeros.
kj::Promise<void> RestoreEnding::keepOn(const std::string& why) {
  if (life_.over()) return kj::READY_NOW;
  if (life_.may(Stage::kept)) life_.become(Stage::kept);
  if (!std::exchange(keptTold_, true))
    context_.log.add(restore() + ": its target's memory cannot be let go, and is served until it can: " + why,
                     segment_.name());
  // If the shards have it no more, a fault there gets an error.
  if (life_.stage() == Stage::departing) owner_.answerAlone();
  return timer().afterDelay(LOOK_EVERY).then([this] {
    return life_.over() ? kj::Promise<void>(kj::READY_NOW) : begin();
  });
}

// Waits until no event is in flight, at most until `deadline` (ns); run() reads on. The ranges are
// unregistered, so no removal can begin. A stopped target keeps its event in flight for ever, hence the
// deadline.
kj::Promise<void> RestoreEnding::leave(std::uint64_t deadline) {
  if (!life_.over() && uffd::eventInFlight(fds_.uffd.get()) && process::nowNs() < deadline)
    return timer().afterDelay(LEAVE_CHECK).then([this, deadline] { return leave(deadline); });
  return countPages(timer(), segment_).then([this](const shm::PageCounts& counts) { owner_.finish(counts); });
}

}  // namespace faultline::coordinator
