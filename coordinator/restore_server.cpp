#include "coordinator/restore_server.h"

#include <algorithm>

#include "coordinator/call_inputs.h"
#include "coordinator/page_counting.h"
#include "coordinator/page_runs.h"
#include "rpc/answering.h"
#include "rpc/convert.h"

namespace faultline::coordinator {

namespace {

class PrefaultServer final : public rpc::Answering<rpc::Prefault> {
 public:
  PrefaultServer(const std::shared_ptr<Restore>& restore, std::shared_ptr<PrefaultJob> job)
      : restore_(restore), over_(restore->whenOver().fork()), job_(std::move(job)) {}

  kj::Promise<void> progress(ProgressContext context) override {
    context.getResults().setFinished(job_->finished());
    auto restore = restore_.lock();
    if (restore == nullptr) return asItEnded(context);
    auto counted = countPages(restore->timer(), restore->segment(), job_->ranges);
    return counted.attach(std::move(restore)).then([context](const shm::PageCounts& counts) mutable {
      context.getResults().setMissing(counts.missing);
      context.getResults().setTotal(counts.total());
    });
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
  kj::Promise<void> asItEnded(ProgressContext context) {
    return over_.addBranch().then([context](const RestoreEnd& end) mutable {
      context.getResults().setMissing(end.missing);
      context.getResults().setTotal(0);
    });
  }

  std::weak_ptr<Restore> restore_;
  kj::ForkedPromise<RestoreEnd> over_;
  std::shared_ptr<PrefaultJob> job_;
};

class RestoreServer final : public rpc::Answering<rpc::Restore> {
 public:
  explicit RestoreServer(const std::shared_ptr<Restore>& restore)
      : restore_(restore), name_(restore->name()), over_(restore->whenOver().fork()) {
    if (const auto recorder = restore->recording().recorder(); recorder != nullptr)
      recorded_ =
          makeRecordedWorkingSet(recorder, restore->segment().regions().regions(), restore->fds().source);
  }

  kj::Promise<void> info(InfoContext context) override { return fill(require(), context); }

  kj::Promise<void> waitReady(WaitReadyContext) override { return require()->whenReady(); }

  kj::Promise<void> waitComplete(WaitCompleteContext context) override {
    auto restore = require();
    // Held while waiting, so that there is something to tell also when it ends by completing.
    return restore->whenComplete().then([restore, context]() mutable { return fill(restore, context); });
  }

  kj::Promise<void> pageStates(PageStatesContext context) override {
    auto restore = require();
    const shm::PageTable& pages = restore->segment().pages();
    const shm::PageRange range = rpc::rangeFrom(context.getParams().getPages(), pages.pageCount());
    const auto runs = stateRuns(pages, range);
    auto list = context.getResults().initRuns(static_cast<unsigned>(runs.size()));
    for (unsigned i = 0; i < runs.size(); i++) {
      rpc::fill(list[i].initPages(), runs[i].range);
      list[i].setState(rpc::stateFrom(runs[i].value));
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> owners(OwnersContext context) override {
    auto restore = require();
    shm::Segment& segment = restore->segment();
    const shm::PageRange range = rpc::rangeFrom(context.getParams().getPages(), segment.pages().pageCount());
    const auto runs = ownerRuns(segment, range);
    auto list = context.getResults().initRuns(static_cast<unsigned>(runs.size()));
    for (unsigned i = 0; i < runs.size(); i++) {
      rpc::fill(list[i].initPages(), runs[i].range);
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
    auto ranges = prefaultRangesFrom(context.getParams().getRanges(), restore->segment().pages().pageCount());
    if (restore->failed()) restore->notServed();
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
    auto counted = restore->counts();
    return counted.then([this, context, restore](const shm::PageCounts& counts) mutable {
      if (counts.missing > 0 && !context.getParams().getForce())
        rpc::refuse(rpc::Reason::PAGES_MISSING,
                    std::to_string(counts.missing) + " pages of restore " + name_ +
                        " are still missing and would be lost to the target: prefault first, or use force");
      restore->end(rpc::EndReason::DETACHED, "detached by the operator", Restore::Release::yes);
      return over_.addBranch().ignoreResult();
    });
  }

  kj::Promise<void> waitEnded(WaitEndedContext context) override {
    return over_.addBranch().then([context](const RestoreEnd& end) mutable {
      auto results = context.getResults();
      results.setReason(end.reason);
      results.setText(end.text.c_str());
      results.setMissing(end.missing);
    });
  }

  // Also when the restore is over: that is when a recording is whole.
  kj::Promise<void> workingSet(WorkingSetContext context) override {
    KJ_IF_MAYBE (recorded, recorded_) {
      context.getResults().setWorkingSet(*recorded);
      return kj::READY_NOW;
    }
    rpc::refuse(rpc::Reason::NOT_FOUND,
                "restore " + name_ + " records no working set: begin it with --record-working-set");
  }

 private:
  template <typename Context>
  static kj::Promise<void> fill(const std::shared_ptr<Restore>& restore, Context context) {
    return restore->counts().then([restore, context](const shm::PageCounts& counts) mutable {
      restore->fill(context.getResults().initInfo(), counts);
    });
  }

  std::shared_ptr<Restore> require() {
    auto restore = restore_.lock();
    if (restore == nullptr) rpc::refuse(rpc::Reason::ENDED, "restore " + name_ + " is over");
    return restore;
  }

  std::weak_ptr<Restore> restore_;
  const std::string name_;
  kj::ForkedPromise<RestoreEnd> over_;
  kj::Maybe<rpc::RecordedWorkingSet::Client> recorded_;
};

}  // namespace

rpc::Restore::Client makeRestoreServer(const std::shared_ptr<Restore>& restore) {
  return kj::heap<RestoreServer>(restore);
}

}  // namespace faultline::coordinator
