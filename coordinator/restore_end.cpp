// How a restore ends: released, given up, or lost with its target.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "coordinator/restore.h"
#include "process/clock.h"
#include "process/duplicate.h"
#include "process/log_about.h"
#include "process/process.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

using Stage = Life::Stage;

namespace {

constexpr kj::Duration LEAVE_CHECK = 200 * kj::MICROSECONDS;
constexpr std::uint64_t LEAVE_PATIENCE = 2'000'000'000;  // ns
constexpr const char* NOTHING_LEFT = "its memory has left its regions";
constexpr kj::Duration KILL_PATIENCE = 10 * kj::SECONDS;  // with a target that was killed

}  // namespace

void Restore::targetGone(const std::string& how) {
  if (target_.killed().has_value())
    end(rpc::EndReason::TARGET_KILLED, *target_.killed(), Release::no);
  else
    end(rpc::EndReason::TARGET_GONE, how, Release::no);
}

// The marks are set under the write side, where no section spans them.
kj::Promise<void> Restore::pagesGone(std::vector<shm::PageRange> pages) {
  if (failed() || reader_.get() == nullptr) return kj::READY_NOW;
  return exclusively([this, pages = std::move(pages)](const shm::ExclusiveGuard& guard) {
    for (const shm::PageRange& range : pages) segment_.pages().markGone(guard, range);
  });
}

kj::Promise<void> Restore::exclusively(std::function<void(const shm::ExclusiveGuard&)> mark) {
  if (failed() || reader_.get() == nullptr) return KJ_EXCEPTION(FAILED, "the restore has failed");
  return inReader_.wrap(reader_->exclusively(std::move(mark)));
}

kj::Promise<void> Restore::refused(kj::AutoCloseFd userfaultfd) {
  if (userfaultfd.get() < 0 || fds_.target.get() < 0) return kj::READY_NOW;
  return context_.refused.tell("restore " + name(), userfaultfd.get(), fds_.target.get());
}

void Restore::nothingLeft() {
  end(rpc::EndReason::TARGET_GONE, NOTHING_LEFT, Release::yes);
}

void Restore::anotherKilled() {
  fail(rpc::EndReason::PAGE_LOST, "who connected was killed, and was not who has the memory");
}

void Restore::end(rpc::EndReason reason, const std::string& text, Release release) {
  // A target that has gone ends a release that is under way.
  if (over() || (life_.ending() && release == Release::yes)) return;
  if (!life_.ending()) {
    const process::LogAbout about({.restore = name()});
    spdlog::info("restore {}: {}", name(), text);
    life_.ends(reason, text);
    life_.become(Stage::releasing);
  }
  if (release == Release::no) {
    tasks_.add(counts().then([this](const shm::PageCounts& counts) {
      life_.misses(counts.missing);
      finish(counts);
    }));
    return;
  }
  if (reader_.get() != nullptr && reader_->paused()) reader_->resume();
  tasks_.add(letGo());
}

void Restore::finishUp(const std::string& text) {
  if (life_.ending() || life_.stage() == Stage::finishing) return;
  if (paused()) resume();
  if (life_.may(Stage::finishing)) life_.become(Stage::finishing);
  fetchMissing(text, ~0ull);
}

void Restore::shutDown(const std::string& text) {
  tasks_.add(missing().then([this, text](std::uint64_t missing) {
    end(missing > 0 ? rpc::EndReason::LOST_AT_SHUTDOWN : rpc::EndReason::SHUT_DOWN, text, Release::yes);
  }));
}

kj::Promise<std::uint64_t> Restore::missing() {
  return counts().then([](const shm::PageCounts& counts) { return counts.missing; });
}

// Round after round, until one brings nothing: what it left out may be to be had in the next.
void Restore::fetchMissing(const std::string& text, std::uint64_t before) {
  tasks_.add(missing().then([this, text, before](std::uint64_t missing) -> kj::Promise<void> {
    if (over() || failed() || missing == 0 || missing >= before) {
      shutDown(text);
      return kj::READY_NOW;
    }
    auto job = population_.begin({});
    return job->whenFinished().then([this, job, text, missing] { fetchMissing(text, missing); });
  }));
}

// Zeros in place of what the snapshot has would be wrong bytes: what is missing is made an error before
// anything is unregistered, or the target is killed before any fd is closed.
kj::Promise<void> Restore::letGo() {
  return release_.stop()
      .then([this] { return missing(); })
      .then([this](std::uint64_t missing) -> kj::Promise<void> {
        if (over()) return kj::READY_NOW;
        life_.misses(missing);
        return missing == 0 && !failed() ? depart() : departIncomplete();
      })
      .catch_(
          [this](kj::Exception&& e) { return keepOn(e.getDescription().cStr()); });  // lacks a thread or fd
}

kj::Promise<void> Restore::depart() {
  return coordinator::depart(departure(DepartureOrder::Poison::nothing)).then([this](Departed how) {
    return departed(how);
  });
}

kj::Promise<void> Restore::departIncomplete() {
  // To have no memory of its own is no reason to kill a target.
  return anyRegistered(departure(DepartureOrder::Poison::nothing)).then([this](bool any) {
    if (over()) return kj::Promise<void>(kj::READY_NOW);
    if (any) return loseMissing();
    if (!failed()) {
      life_.ends(rpc::EndReason::TARGET_GONE, NOTHING_LEFT);
      life_.misses(0);
    }
    return depart();
  });
}

DepartureOrder Restore::departure(DepartureOrder::Poison poison) const {
  DepartureOrder order{process::duplicate(fds_.uffd.get()), {}, poison};
  for (const shm::RegionEntry& region : segment_.regions().entries()) order.regions.push_back(region);
  if (poison == DepartureOrder::Poison::missing || !failed())
    order.segment = process::duplicate(segment_.fd());
  if (fds_.target.get() >= 0) order.target = process::duplicate(fds_.target.get());
  order.faultedOutside = outside_;
  return order;
}

kj::Promise<void> Restore::loseMissing() {
  const std::string missing = std::to_string(life_.end().missing);
  if (killsOnLost() && target_.kill(missing + " pages are missing, and the restore ends")) {
    context_.log.lost("restore " + name() + ": " + missing + " pages could not be fetched before its end (" +
                          life_.end().text + "); its target is killed",
                      name());
    // If another process has the memory, that one gets errors.
    return context_.io.provider->getTimer().afterDelay(KILL_PATIENCE).then([this] {
      return over() ? kj::Promise<void>(kj::READY_NOW) : poisonMissing();
    });
  }
  return poisonMissing();
}

kj::Promise<void> Restore::poisonMissing() {
  // A restore that is being dealt out gets new shards until that is over.
  return resharded_.addBranch()
      .then([this] { return shards_.leaveAll(); })
      .then([this] {
        if (life_.may(Stage::departing)) life_.become(Stage::departing);
        return coordinator::depart(
            departure(failed() ? DepartureOrder::Poison::unmapped : DepartureOrder::Poison::missing));
      })
      .then([this](Departed how) { return departed(how); });
}

kj::Promise<void> Restore::departed(Departed how) {
  if (over()) return kj::READY_NOW;
  shm::count(context_.totals.pagesLost, how.poisoned);
  if (how.poisoned > 0)
    context_.log.lost("restore " + name() + ": " + std::to_string(how.poisoned) +
                          " pages could not be fetched before its end (" + life_.end().text +
                          "); its target gets SIGBUS on them",
                      name());
  if (how.unsupported) {
    const std::string pages = std::to_string(life_.end().missing);
    const bool killed =
        fds_.target.get() >= 0 && target_.kill("this kernel cannot poison pages (Linux 6.6 can)");
    context_.log.lost("restore " + name() + ": " + pages + " pages could not be fetched before its end (" +
                          life_.end().text + "), and this kernel cannot poison them: its target " +
                          (killed ? "is killed" : "waits for them, or reads zeros: kill it"),
                      name());
  }
  if (how.unnamed > 0)
    spdlog::info("restore {}: {} bytes that were registered, and named in no region, are registered no more",
                 name(), how.unnamed);
  // A target that is told of the end may have another userfaultfd served at the same addresses.
  if (how.kept == 0)
    return shards_.leaveAll().then([this] { return leave(process::nowNs() + LEAVE_PATIENCE); });
  return keepOn(std::to_string(how.kept) + " bytes of it, the first at " +
                fmt::format("{:#x}", how.firstKept) +
                ", cannot be unregistered (has the target as many mappings as vm.max_map_count allows?)");
}

// Registered memory without a server would have its threads wait for ever, or read zeros.
kj::Promise<void> Restore::keepOn(const std::string& why) {
  if (over()) return kj::READY_NOW;
  if (life_.may(Stage::kept)) life_.become(Stage::kept);
  if (!std::exchange(keptTold_, true))
    context_.log.add(
        "restore " + name() + ": its target's memory cannot be let go, and is served until it can: " + why,
        name());
  // If the shards have it no more, a fault there gets an error.
  if (life_.stage() == Stage::departing && reader_.get() != nullptr) reader_->answerAlone();
  return context_.io.provider->getTimer().afterDelay(LOOK_EVERY).then([this] {
    return over() ? kj::Promise<void>(kj::READY_NOW) : letGo();
  });
}

// Waits until no event is in flight, at most until `deadline` (ns); run() reads on. The ranges are
// unregistered, so no removal can begin. A stopped target keeps its event in flight for ever, hence the
// deadline.
kj::Promise<void> Restore::leave(std::uint64_t deadline) {
  if (!over() && uffd::eventInFlight(fds_.uffd.get()) && process::nowNs() < deadline)
    return context_.io.provider->getTimer().afterDelay(LEAVE_CHECK).then([this, deadline] {
      return leave(deadline);
    });
  return counts().then([this](const shm::PageCounts& counts) { finish(counts); });
}

// Its end is noted before anything of it is given back: a successor that finds it noted gives the rest back.
void Restore::finish(const shm::PageCounts& counts) {
  if (over()) return;
  noteEnd(counts);
  context_.failpoints.hit(failpoints::Point::endNoted);
  life_.become(Stage::over);
  shards_.drop();
  RestoreFds::drop(context_.link, id(), fds_.source.size());
  readyFulfiller_->fulfill();
  completeFulfiller_->fulfill();
  overFulfiller_->fulfill();
}

// An exception that is no answer of ours came from below: the segment makes no sense, or the server failed.
void Restore::failOf(const kj::Exception& exception) {
  fail(rpc::EndReason::SERVER_FAILED, rpc::refusalOf(exception).message);
}

void Restore::fail(rpc::EndReason reason, const std::string& text) {
  if (!life_.may(Stage::failed)) return;
  life_.fail(reason, text);
  shm::count(context_.totals.restoresFailed);
  segment_.header().state.store(shm::SegmentState::failed);
  // Killed before a fault is answered: no thread goes on without its page.
  const bool killing = killsOnLost() && target_.kill(text);
  context_.log.lost("restore " + name() + " has failed: " + text +
                        (killing ? "" : "; the target gets SIGBUS on every page it still misses"),
                    name());
  shards_.stop();
  population_.giveUp();
  // Not from within the promise that has just failed.
  tasks_.add(kj::evalLater([this] {
    reading_ = nullptr;
    inReader_.cancel("the restore has failed");
    reading_ =
        bury().eagerlyEvaluate([](kj::Exception&& e) { spdlog::error("{}", e.getDescription().cStr()); });
  }));
  completeFulfiller_->fulfill();
  readyFulfiller_->fulfill();
}

// To read an event is to tell its caller to go on, so every section that began before the restore failed has
// to end first: with the lock; or, where that is what failed, with the shards.
kj::Promise<void> Restore::bury() {
  return reader_->exclusively([](const shm::ExclusiveGuard&) {})
      .catch_([this](kj::Exception&&) {
        return context_.pool.endAll("restore " + name() +
                                    " has failed, and its lock cannot tell what is at work on it");
      })
      .then([this] {
        reader_ = nullptr;
        undertaker_ = kj::heap<Undertaker>(context_.io, fds_.uffd.get(), fds_.target.get(), name());
        return undertaker_->run();
      });
}

void Restore::pageLost(shm::PageIndex page) {
  if (over() || failed()) return;
  if (!killsOnLost())
    return fail(rpc::EndReason::PAGE_LOST, "a page is lost and this kernel cannot poison it (Linux 6.6 can)");
  const std::string text = "page " + std::to_string(page) + " is lost";
  // Without fail() the page would never be answered.
  if (!target_.kill(text)) fail(rpc::EndReason::PAGE_LOST, text + " and the target cannot be killed");
}

}  // namespace faultline::coordinator
