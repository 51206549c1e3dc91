// A service that is to end with nothing lost: no new targets, everything is populated, then it ends.
//
// Targets that come meanwhile wait with their handshakes unread. The service goes on as it was, and they are served,
// where a restore cannot be completed (its target may not have the memory, its source fails, it has failed) or the caller goes.
#pragma once

#include <kj/async.h>

#include <map>
#include <memory>
#include <string>

#include "coordinator/listeners.h"
#include "coordinator/restores.h"
#include "coordinator/service_end.h"

namespace faultline::coordinator {

// Loop thread only.
class Drain {
 public:
  Drain(RestoreContext& context, const Restores& restores, Listeners& listeners, ServiceEnd& end)
      : context_(context), restores_(restores), listeners_(listeners), end_(end) {}

  // Resolves when every restore is complete, and begins the end of the service then. Refuses (pagesMissing, wrongPhase,
  // notReady, ending) with the service as it was. Dropped before that, it goes on as it was, too.
  kj::Promise<void> run();
  // True: no target is taken.
  bool underWay() const { return underWay_; }

 private:
  struct Jobs;
  kj::Promise<void> look(const std::shared_ptr<Jobs>& jobs);
  void populate(Jobs& jobs);

  RestoreContext& context_;
  const Restores& restores_;
  Listeners& listeners_;
  ServiceEnd& end_;
  bool underWay_ = false;
};

}  // namespace faultline::coordinator
