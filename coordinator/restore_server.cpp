#include "coordinator/restore_server.h"

#include <kj/debug.h>

#include "coordinator/page_runs.h"
#include "rpc/convert.h"

namespace faultline::coordinator {

namespace {

class PrefaultServer final : public rpc::Prefault::Server {
 public:
  PrefaultServer(std::weak_ptr<Restore> restore, std::shared_ptr<PrefaultJob> job)
      : restore_(std::move(restore)), job_(std::move(job)) {}

  kj::Promise<void> progress(ProgressContext context) override {
    auto results = context.getResults();
    results.setFinished(job_->finished());
    if (auto restore = restore_.lock()) {
      const shm::PageTable& pages = restore->segment().pages();
      shm::PageCounts sum;
      auto add = [&](shm::PageRange range) {
        const auto counts = pages.counts(range);
        sum.missing += counts.missing;
        sum.faulted += counts.faulted;
        sum.removed += counts.removed;
      };
      if (job_->ranges.empty()) add({0, pages.pageCount()});
      for (const shm::PageRange range : job_->ranges) add(range);
      results.setMissing(sum.missing);
      results.setTotal(sum.total());
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> wait(WaitContext) override {
    auto restore = restore_.lock();
    if (restore == nullptr) return kj::READY_NOW;
    return job_->whenFinished().exclusiveJoin(restore->whenOver().ignoreResult());
  }

  kj::Promise<void> cancel(CancelContext) override {
    auto restore = restore_.lock();
    if (restore == nullptr || job_->finished()) return kj::READY_NOW;
    restore->population().cancel(*job_);
    return job_->whenFinished().exclusiveJoin(restore->whenOver().ignoreResult());
  }

 private:
  std::weak_ptr<Restore> restore_;
  std::shared_ptr<PrefaultJob> job_;
};

class RestoreServer final : public rpc::Restore::Server {
 public:
  explicit RestoreServer(const std::shared_ptr<Restore>& restore)
      : restore_(restore), name_(restore->name()), over_(restore->whenOver().fork()) {
    if (restore->touches() != nullptr)
      recorded_ = makeRecordedWorkingSet(restore->touches(), restore->segment().regions().regions(),
                                         restore->fds().source.get());
  }

  kj::Promise<void> info(InfoContext context) override {
    require()->fill(context.getResults().initInfo());
    return kj::READY_NOW;
  }

  kj::Promise<void> waitReady(WaitReadyContext) override { return require()->whenReady(); }

  kj::Promise<void> waitComplete(WaitCompleteContext context) override {
    auto restore = require();
    // Held while waiting, so that there is something to tell also when it ends by completing.
    return restore->whenComplete().then(
        [restore, context]() mutable { restore->fill(context.getResults().initInfo()); });
  }

  kj::Promise<void> pageStates(PageStatesContext context) override {
    auto restore = require();
    const shm::PageTable& pages = restore->segment().pages();
    const shm::PageRange range = rpc::rangeFrom(context.getParams().getRange(), pages.pageCount());
    const auto runs = stateRuns(pages, range);
    auto list = context.getResults().initRuns(static_cast<unsigned>(runs.size()));
    for (unsigned i = 0; i < runs.size(); i++) {
      rpc::fill(list[i].initRange(), runs[i].range);
      list[i].setState(rpc::stateFrom(runs[i].value));
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> owners(OwnersContext context) override {
    auto restore = require();
    shm::Segment& segment = restore->segment();
    const shm::PageRange range = rpc::rangeFrom(context.getParams().getRange(), segment.pages().pageCount());
    const auto runs = ownerRuns(segment, range);
    auto list = context.getResults().initRuns(static_cast<unsigned>(runs.size()));
    for (unsigned i = 0; i < runs.size(); i++) {
      rpc::fill(list[i].initRange(), runs[i].range);
      list[i].setShard(runs[i].value);
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> pause(PauseContext) override {
    require()->pause();
    return kj::READY_NOW;
  }

  kj::Promise<void> resume(ResumeContext) override {
    require()->resume();
    return kj::READY_NOW;
  }

  kj::Promise<void> prefault(PrefaultContext context) override {
    auto restore = require();
    auto ranges = rpc::rangesFrom(context.getParams().getRanges(), restore->segment().pages().pageCount());
    context.getResults().setPrefault(
        kj::heap<PrefaultServer>(restore, restore->population().begin(std::move(ranges))));
    return kj::READY_NOW;
  }

  kj::Promise<void> stats(StatsContext context) override {
    require()->fill(context.getResults().initStats());
    return kj::READY_NOW;
  }

  kj::Promise<void> detach(DetachContext context) override {
    auto restore = require();
    const std::uint64_t missing = restore->segment().pages().counts().missing;
    KJ_REQUIRE(context.getParams().getForce() || missing == 0,
               "pages are still missing and would be lost to the target: prefault first, or use force",
               name_.c_str(), missing);
    restore->end("detached by the operator", Restore::Release::yes);
    return over_.addBranch().ignoreResult();
  }

  kj::Promise<void> waitEnded(WaitEndedContext context) override {
    return over_.addBranch().then(
        [context](const std::string& reason) mutable { context.getResults().setReason(reason.c_str()); });
  }

  // Also when the restore is over: that is when a recording is whole.
  kj::Promise<void> workingSet(WorkingSetContext context) override {
    KJ_IF_MAYBE (recorded, recorded_) {
      context.getResults().setWorkingSet(*recorded);
      return kj::READY_NOW;
    }
    KJ_FAIL_REQUIRE("this restore records no working set: begin it with --record-working-set", name_.c_str());
  }

 private:
  std::shared_ptr<Restore> require() {
    auto restore = restore_.lock();
    KJ_REQUIRE(restore != nullptr, "the restore is over", name_.c_str());
    return restore;
  }

  std::weak_ptr<Restore> restore_;
  const std::string name_;
  kj::ForkedPromise<std::string> over_;
  kj::Maybe<rpc::RecordedWorkingSet::Client> recorded_;
};

}  // namespace

rpc::Restore::Client makeRestoreServer(const std::shared_ptr<Restore>& restore) {
  return kj::heap<RestoreServer>(restore);
}

}  // namespace faultline::coordinator
