// The meaning of the events of one uffd, live and in replay: a removal is published in the page table, a fault is handed
// to the shard that owns its page, or to whom it concerns.
#pragma once

#include <linux/userfaultfd.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "coordinator/fault_router.h"
#include "coordinator/removed_ranges.h"
#include "failpoints/failpoints.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only. Allocates nothing but where a batch is larger than any before.
class EventPublisher {
 public:
  // Called by handOut().
  using Fault = std::function<void(const uffd_msg& fault)>;
  using Part = std::function<void(shm::PageIndex page)>;
  using Removed = std::function<void(const shm::PageRange& pages)>;

  // `present`: a fault on a page that is there, whose write protection or missing mapping holds the thread up;
  // after answerAlone(), any.
  // `outside`: one at an address that no region covers.
  // `part`: a page that had not come, and a part of which the target has given up: it is released, so a fault on it
  // gets an error.
  // `removed`: adjacent pages that the target has given up, which are marked.
  EventPublisher(shm::Segment& segment, FaultRouter& router, failpoints::Failpoints& failpoints,
                 Fault present, Fault outside, Part part, Removed removed);

  // Takes an event of a batch. False: no event of ours. Events taken before a failure are of no use.
  [[nodiscard]] bool add(const uffd_msg& message);
  // All of the batch is added. Returns how many faults it has.
  std::uint64_t complete();
  // Marks removed pages, the whole batch in steps of some ms. True: all are marked.
  [[nodiscard]] bool publishSome(const shm::ExclusiveGuard& guard);
  // From now on no shard is asked.
  void answerAlone() { alone_ = true; }
  // Hands the faults on, once the gate is open. `readAt`: ns.
  void handOut(std::uint64_t readAt);

 private:
  void addFault(const uffd_msg& fault);
  void addPart(std::uint64_t address, const AddressRange& removed);

  shm::Segment& segment_;
  FaultRouter& router_;
  failpoints::Failpoints& failpoints_;
  const Fault onPresent_, onOutside_;
  const Part onPart_;
  const Removed onRemoved_;
  RemovedRanges removals_;                   // in this batch
  std::vector<shm::PageRange> toMark_;       // removed by this batch and not marked yet, the last first
  std::vector<shm::PageRange> removed_;      // by this batch
  std::vector<shm::PageIndex> parts_;        // pages of which this batch has removed a part
  std::vector<uffd_msg> present_, outside_;  // faults of this batch
  std::uint64_t faults_ = 0;                 // in this batch
  bool alone_ = false;                       // asks no shard
};

}  // namespace faultline::coordinator
