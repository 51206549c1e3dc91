// Why a restore ends, and how it fails.
#include <spdlog/spdlog.h>

#include "coordinator/restore.h"
#include "process/log_about.h"

namespace faultline::coordinator {

using Stage = Life::Stage;

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
  tasks_.add(ending_.begin());
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

// If the shards have it no more, a fault there gets an error.
void Restore::answerAlone() {
  if (reader_.get() != nullptr) reader_->answerAlone();
}

// Its end is noted before anything of it is given back: a successor that finds it noted gives the rest back.
void Restore::finish(const shm::PageCounts& counts) {
  if (over()) return;
  noteEnd(counts);
  context_.failpoints.hit(failpoints::Point::endNoted);
  life_.become(Stage::over);
  shards_.drop();
  RestoreFds::drop(context_.link, id(), fds_.source.size());
  ready_.reach();
  complete_.reach();
  over_.reach();
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
  complete_.reach();
  ready_.reach();
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
