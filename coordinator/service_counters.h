// Counters of the service as a whole, for the metrics. The counters lie in a memfd that the supervisor keeps,
// so they go on from one coordinator to the next; a restore's counters are in its segment
// (shmtracker/counters.h).
#pragma once

#include <kj/io.h>

#include <memory>

#include "shmtracker/counters.h"
#include "shmtracker/layout.h"

namespace faultline::coordinator {

// Written by the coordinator, atomically; read at any time.
struct ServiceTotals {
  shm::Counter takeovers;  // coordinators that took over from another
  shm::Counter restoresBegun;
  shm::Counter restoresFailed;  // could not be served to their end
  shm::Counter targetsRefused;  // handshakes
  shm::Counter pagesLost;       // pages that the source could not give any more
  shm::Counter shardRestarts[shm::MAX_SHARDS];
  shm::Histogram shardRecovery;        // a shard's death, as it was noticed, until its successor serves
  shm::Histogram coordinatorRecovery;  // a coordinator's death, until its successor serves
};

class ServiceCounters {
 public:
  // Goes on with `inherited`, a predecessor's; makes new ones where there is none (-1) or it has another
  // shape: figures are not worth a service that does not start. Throws where there is no memory to be had.
  explicit ServiceCounters(kj::AutoCloseFd inherited);

  ServiceTotals& operator*() const { return *totals_; }
  ServiceTotals* operator->() const { return totals_.get(); }
  // The number of the service's last event.
  shm::Counter& lastEvent() const;
  // To be kept for a successor: borrowed. -1 where the inherited ones go on.
  int fresh() const { return fresh_.get(); }

 private:
  struct Unmap {
    void operator()(ServiceTotals* totals) const;
  };
  kj::AutoCloseFd fresh_;
  std::unique_ptr<ServiceTotals, Unmap> totals_;
};

}  // namespace faultline::coordinator
