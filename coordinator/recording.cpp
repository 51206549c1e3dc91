#include "coordinator/recording.h"

#include <kj/exception.h>

#include <utility>

#include "coordinator/own_thread.h"
#include "process/kept_name.h"

namespace faultline::coordinator {

using process::KeptName;

Recording::Recording(SupervisorLink& link, EventLog& log, const shm::Segment& segment, FaultRouter& router)
    : link_(link), log_(log), segment_(segment), router_(router) {}

void Recording::begin() {
  KJ_IF_MAYBE (e, kj::runCatchingExceptions(
                      [&] { use(std::make_shared<TouchRecorder>(segment_.pages().pageCount())); }))
    giveUp(e->getDescription().cStr());
}

kj::Promise<void> Recording::goOn(kj::AutoCloseFd kept) {
  if (kept.get() < 0) return kj::READY_NOW;
  struct Taken {
    kj::AutoCloseFd fd;
    std::shared_ptr<TouchRecorder> recorder;
    std::string why;
  };
  auto taken = std::make_shared<Taken>(Taken{kj::mv(kept), nullptr, {}});
  auto take = [taken, pages = segment_.pages().pageCount()] {
    KJ_IF_MAYBE (e, kj::runCatchingExceptions(
                        [&] { taken->recorder = std::make_shared<TouchRecorder>(taken->fd.get(), pages); }))
      taken->why = e->getDescription().cStr();
  };
  return kj::evalNow([&] { return inOwnThread("a recording cannot be taken over", take); })
      .then(
          [this, taken] {
            if (taken->recorder != nullptr)
              use(std::move(taken->recorder));
            else
              giveUp(taken->why);
          },
          [this](kj::Exception&& e) { giveUp(e.getDescription().cStr()); });
}

void Recording::use(std::shared_ptr<TouchRecorder> recorder) {
  recorder_ = std::move(recorder);
  router_.record(*recorder_);
}

void Recording::giveUp(const std::string& why) {
  log_.add("restore " + segment_.name() + ": no working set is recorded: " + why, segment_.name());
  link_.drop(KeptName::restore(segment_.facts().restoreId, KeptName::Part::touches));
}

}  // namespace faultline::coordinator
