// A point that something passes once, and that any number of promises wait for.
#pragma once

#include <kj/async.h>

namespace faultline::coordinator {

// Loop thread only.
class Milestone {
 public:
  Milestone() : Milestone(kj::newPromiseAndFulfiller<void>()) {}

  // A repeated call does nothing.
  void reach() { fulfiller_->fulfill(); }
  kj::Promise<void> whenReached() { return reached_.addBranch(); }

 private:
  explicit Milestone(kj::PromiseFulfillerPair<void> pair)
      : fulfiller_(kj::mv(pair.fulfiller)), reached_(pair.promise.fork()) {}

  kj::Own<kj::PromiseFulfiller<void>> fulfiller_;
  kj::ForkedPromise<void> reached_;
};

}  // namespace faultline::coordinator
