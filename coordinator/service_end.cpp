#include "coordinator/service_end.h"

#include <kj/debug.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "process/clock.h"
#include "process/log_about.h"
#include "process/process.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

constexpr kj::Duration END_CHECK = 50 * kj::MILLISECONDS;
constexpr std::uint64_t SECOND = 1'000'000'000;          // ns
constexpr std::uint64_t TOLD_EVERY = SECOND;             // between two reports of progress
constexpr std::uint64_t STALLED = 10 * SECOND;           // without a page more: the source does not answer
constexpr std::uint64_t FILES_PATIENCE = 2 * SECOND;     // with a file system that has a socket's file
constexpr std::uint64_t LETTING_GO_LIMIT = 20 * SECOND;  // for steps that take a target's own locks

// ns. Asks the clock each time: what is noted in between must not lie in its future.
std::uint64_t passedSince(std::uint64_t then) {
  return process::nowNs() - then;
}

}  // namespace

ServiceEnd::ServiceEnd(RestoreContext& context, const Restores& restores, LostRestores& lost,
                       Listeners& listeners)
    : context_(context), restores_(restores), lost_(lost), listeners_(listeners), over_(nullptr) {
  auto paf = kj::newPromiseAndFulfiller<void>();
  overFulfiller_ = kj::mv(paf.fulfiller);
  over_ = paf.promise.fork();
}

void ServiceEnd::ask(bool now) {
  if (adopted_) return begin("it was asked for", now);
  asked_ = asked_.has_value() || now;
}

void ServiceEnd::adopted() {
  adopted_ = true;
  if (asked_.has_value()) begin("it was asked for", *asked_);
}

kj::Promise<void> ServiceEnd::shutdown(bool force) {
  auto looked = force ? kj::Promise<CountedRestores>(CountedRestores())
                      : countEach(restores_, context_.io.provider->getTimer());
  return looked.then([this, force](const CountedRestores& restores) {
    for (std::size_t i = 0; !force && i < restores->size(); i++)
      if ((*restores)[i].counts.missing > 0)
        rpc::refuse(rpc::Reason::PAGES_MISSING,
                    "restore " + (*restores)[i].restore->name() +
                        " is being served and would lose pages: wait for it, detach it, or use force");
    begin(force ? "shut down, forced" : "shut down", false);
  });
}

// The loops go over a copy: a restore that is over leaves restores_.
void ServiceEnd::begin(const std::string& why, bool now) {
  if (!begun()) {
    why_ = why;
    began_ = progressed_ = process::nowNs();
    context_.link.ending();
    const process::LogAbout about({.messageId = process::message::SERVICE_ENDS});
    spdlog::info("the service ends ({}): {} restores", why, restores_.size());
    listeners_.end();
    context_.populations.hurry();
    context_.fetcher.hurry();
    for (const auto& [id, restore] : Restores(restores_)) restore->finishUp("the service ends: " + why);
    lost_.letGo();
    watching_ = kj::evalLater([this] { return watch(); }).eagerlyEvaluate([](kj::Exception&& e) {
      spdlog::error("{}", e.getDescription().cStr());
    });
  } else {
    now = true;
  }
  if (now) fetchNoMore("it was asked for twice, or at once");
}

void ServiceEnd::fetchNoMore(const std::string& why) {
  if (lettingGo_ != 0) return;
  lettingGo_ = process::nowNs();
  if (!restores_.empty()) spdlog::warn("what is missing yet is not fetched any more: {}", why);
  for (const auto& [id, restore] : Restores(restores_)) restore->shutDown("the service ends: " + why_);
}

kj::Promise<void> ServiceEnd::watch() {
  auto counted = countEach(restores_, context_.io.provider->getTimer());
  return counted.then([this](const CountedRestores& restores) {
    std::uint64_t missing = 0;
    for (const CountedRestore& one : *restores) missing += one.counts.missing;
    return look(missing);
  });
}

kj::Promise<void> ServiceEnd::look(std::uint64_t missing) {
  auto& timer = context_.io.provider->getTimer();
  const bool filesLeft = listeners_.removing() && passedSince(began_) < FILES_PATIENCE;
  if (restores_.empty() && lost_.allLetGo() && !filesLeft) {
    // After the answer to the call that asked for it is on its way.
    return timer.afterDelay(1 * kj::MILLISECONDS).then([this] {
      context_.link.shutdown();
      overFulfiller_->fulfill();
    });
  }
  if (restores_.empty()) fetchNoMore("every restore is over");
  if (!missing_.has_value() || missing < *missing_) {
    missing_ = missing;
    progressed_ = process::nowNs();
  }
  if (passedSince(told_) >= TOLD_EVERY) {
    told_ = process::nowNs();
    // Also while targets are let go of, which has a limit of its own.
    if (passedSince(progressed_) < STALLED || lettingGo_ != 0) context_.link.progress();
  }
  if (passedSince(progressed_) > STALLED) fetchNoMore("no page has come for 10 s");
  const std::chrono::nanoseconds limit(context_.options.stopLimit);
  if (passedSince(began_) > static_cast<std::uint64_t>(limit.count()))
    fetchNoMore("the limit for the end is reached (--stop-limit-s)");
  if (lettingGo_ != 0 && passedSince(lettingGo_) > LETTING_GO_LIMIT) giveUpRestores();
  return timer.afterDelay(END_CHECK).then([this] { return watch(); });
}

// A target that does not let its memory be changed, for longer than any fork takes.
void ServiceEnd::giveUpRestores() {
  for (const auto& [id, restore] : Restores(restores_)) {
    const int target = restore->fds().target.get();
    const bool killed = target >= 0 && process::sendSignal(target, SIGKILL);
    context_.log.lost("restore " + restore->name() +
                          ": its target holds its memory locked, and the service ends: it " +
                          (killed ? "is killed" : "waits for missing pages, or reads zeros: kill it"),
                      restore->name());
    restore->end(rpc::EndReason::LOST_AT_SHUTDOWN, "the service ends", Restore::Release::no);
  }
  lost_.giveUp();
}

std::string ServiceEnd::statusLine() const {
  std::string line = "ending: " + std::to_string(restores_.size()) + " restores";
  if (missing_.value_or(0) == 0) return line;
  return line + ", " + std::to_string(*missing_) +
         (lettingGo_ == 0 ? " pages are still fetched" : " pages are given up");
}

}  // namespace faultline::coordinator
