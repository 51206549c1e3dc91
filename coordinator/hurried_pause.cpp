#include "coordinator/hurried_pause.h"

namespace faultline::coordinator {

kj::Promise<void> HurriedPause::pause(kj::Duration length) {
  if (hurried_) return kj::READY_NOW;
  auto early = kj::newPromiseAndFulfiller<void>();
  ends_ = kj::mv(early.fulfiller);
  return timer_.afterDelay(length).exclusiveJoin(kj::mv(early.promise));
}

void HurriedPause::hurry() {
  hurried_ = true;
  if (ends_.get() != nullptr) ends_->fulfill();
}

}  // namespace faultline::coordinator
