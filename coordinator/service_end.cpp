// How the service ends: one way for every reason (a signal, a command, a supervisor that has gone).
//
// New targets are refused; what targets miss is fetched, for as long as that progresses and the operator's
// limit allows; what is missing then is poisoned, or its target killed (restore_end.cpp); then everything is
// over. To be asked again is to be asked to fetch no more.
#include <kj/debug.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <map>
#include <string>

#include "coordinator/service.h"
#include "process/clock.h"
#include "process/pid_of.h"
#include "process/process.h"

namespace faultline::coordinator {

namespace {

constexpr kj::Duration END_CHECK = 50 * kj::MILLISECONDS;
constexpr std::uint64_t SECOND = 1'000'000'000;          // ns
constexpr std::uint64_t TOLD_EVERY = SECOND;             // that it progresses
constexpr std::uint64_t STALLED = 10 * SECOND;           // without a page more: the source does not answer
constexpr std::uint64_t LETTING_GO_LIMIT = 20 * SECOND;  // of what takes a target's own locks

// ns. Asks the clock each time: what is noted in between must not lie in its future.
std::uint64_t passedSince(std::uint64_t then) {
  return process::nowNs() - then;
}

}  // namespace

void Service::end(const std::string& why, bool now) {
  if (!ending_.has_value()) {
    ending_.emplace(Ending{why, process::nowNs()});
    link_.ending();
    spdlog::info("the service ends ({}): {} restores", why, restores_.size());
    while (!listeners_.empty()) closeListener(listeners_.begin()->first);
    for (const auto& [id, restore] : std::map(restores_)) restore->finishUp("the service ends: " + why);
    lost_.letGo();
    tasks_.add(kj::evalLater([this] { return watchEnd(); }));
  } else {
    now = true;
  }
  if (now) fetchNoMore("it was asked for twice, or at once");
}

void Service::fetchNoMore(const std::string& why) {
  if (ending_->lettingGo != 0) return;
  ending_->lettingGo = process::nowNs();
  if (!restores_.empty()) spdlog::warn("what is missing yet is not fetched any more: {}", why);
  for (const auto& [id, restore] : std::map(restores_))
    restore->shutDown("the service ends: " + ending_->why);
}

kj::Promise<void> Service::watchEnd() {
  return counted().then([this](const CountedRestores& restores) {
    std::uint64_t missing = 0;
    for (const CountedRestore& one : *restores) missing += one.counts.missing;
    return watchEnd(missing);
  });
}

kj::Promise<void> Service::watchEnd(std::uint64_t missing) {
  if (restores_.empty() && lost_.allLetGo()) {
    // Once the answer to the call that asked for it is on its way.
    return io_.provider->getTimer().afterDelay(1 * kj::MILLISECONDS).then([this] {
      link_.shutdown();
      ended_->fulfill();
    });
  }
  Ending& ending = *ending_;
  if (restores_.empty()) fetchNoMore("every restore is over");
  if (missing < ending.missing) {
    ending.missing = missing;
    ending.progressed = process::nowNs();
  }
  if (passedSince(ending.told) >= TOLD_EVERY) {
    ending.told = process::nowNs();
    // Also while targets are let go of, which has a limit of its own.
    if (passedSince(ending.progressed) < STALLED || ending.lettingGo != 0) link_.progress();
  }
  if (passedSince(ending.progressed) > STALLED) fetchNoMore("no page has come for 10 s");
  if (passedSince(ending.began) >
      static_cast<std::uint64_t>(std::chrono::nanoseconds(options_.stopLimit).count()))
    fetchNoMore("the limit for the end is reached (--stop-limit-s)");
  if (ending.lettingGo != 0 && passedSince(ending.lettingGo) > LETTING_GO_LIMIT) giveUpRestores();
  return io_.provider->getTimer().afterDelay(END_CHECK).then([this] { return watchEnd(); });
}

// A target that does not let its memory be changed, for longer than any fork takes.
void Service::giveUpRestores() {
  for (const auto& [id, restore] : std::map(restores_)) {
    const int target = restore->fds().target.get();
    const bool killed = target >= 0 && process::sendSignal(target, SIGKILL);
    log_.lost("restore " + restore->name() +
              ": its target holds its memory locked, and the service ends: it " +
              (killed ? "is killed" : "waits for missing pages, or reads zeros: kill it"));
    restore->end(rpc::EndReason::LOST_AT_SHUTDOWN, "the service ends", Restore::Release::no);
  }
  lost_.giveUp();
}

}  // namespace faultline::coordinator
