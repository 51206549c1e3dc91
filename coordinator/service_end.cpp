// How the service ends: one way for every reason (a signal, a command, a supervisor that has gone).
//
// New targets are refused; what targets miss is fetched, for as long as that progresses and the operator's
// limit allows; what is missing then is poisoned, or its target killed (restore_end.cpp); then everything is
// over. To be asked again is to be asked to fetch no more.
#include <kj/debug.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <fstream>
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

// Whether a process has memory that is registered for missing faults: the flag "um" of a mapping in
// /proc/PID/smaps (proc(5)). True as well where that cannot be read.
bool hasRegisteredMemory(int pidfd) {
  const pid_t pid = process::pidOf(pidfd);
  std::ifstream maps("/proc/" + std::to_string(pid) + "/smaps");
  if (pid == 0 || !maps) return true;
  for (std::string line; std::getline(maps, line);)
    if (line.starts_with("VmFlags:") && line.find(" um") != std::string::npos) return true;
  return false;
}

}  // namespace

void Service::end(const std::string& why, bool now) {
  if (!ending_.has_value()) {
    ending_.emplace(Ending{why, process::nowNs()});
    link_.ending();
    spdlog::info("the service ends ({}): {} restores", why, restores_.size());
    while (!listeners_.empty()) closeListener(listeners_.begin()->first);
    for (const auto& [id, restore] : std::map(restores_)) restore->finishUp("the service ends: " + why);
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
  if (restores_.empty()) {
    loseLost();
    // Once the answer to the call that asked for it is on its way.
    return io_.provider->getTimer().afterDelay(1 * kj::MILLISECONDS).then([this] {
      link_.shutdown();
      ended_->fulfill();
    });
  }
  const std::uint64_t now = process::nowNs();
  Ending& ending = *ending_;
  if (missing < ending.missing) {
    ending.missing = missing;
    ending.progressed = now;
  }
  if (now - ending.told >= TOLD_EVERY) {
    ending.told = now;
    // Also while targets are let go of, which has a limit of its own.
    if (now - ending.progressed < STALLED || ending.lettingGo != 0) link_.progress();
  }
  if (now - ending.progressed > STALLED) fetchNoMore("no page has come for 10 s");
  if (now - ending.began > static_cast<std::uint64_t>(std::chrono::nanoseconds(options_.stopLimit).count()))
    fetchNoMore("the limit for the end is reached (--stop-limit-s)");
  if (ending.lettingGo != 0 && now - ending.lettingGo > LETTING_GO_LIMIT) giveUpRestores();
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
}

// Restores that could not be taken over: which pages they miss nothing tells.
void Service::loseLost() {
  for (const auto& [id, lost] : lost_) {
    const int target = lost->fds.target.get();
    if (target >= 0 && !hasRegisteredMemory(target)) continue;
    const bool killed = target >= 0 && process::sendSignal(target, SIGKILL);
    log_.lost("restore " + std::to_string(id) + ", which could not be taken over: its target " +
              (killed ? "is killed" : "waits for missing pages, or reads zeros: kill it") +
              ", since the service ends");
  }
}

}  // namespace faultline::coordinator
