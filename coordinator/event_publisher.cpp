#include "coordinator/event_publisher.h"

#include <algorithm>
#include <utility>

namespace faultline::coordinator {

using failpoints::Point;
using shm::count;

namespace {
// Pages that are marked removed in one go, a few ms.
constexpr std::uint64_t MARK_STEP = 1u << 21;
}  // namespace

EventPublisher::EventPublisher(shm::Segment& segment, FaultRouter& router, failpoints::Failpoints& failpoints,
                               Fault present, Fault outside, Part part, Removed removed)
    : segment_(segment),
      router_(router),
      failpoints_(failpoints),
      onPresent_(std::move(present)),
      onOutside_(std::move(outside)),
      onPart_(std::move(part)),
      onRemoved_(std::move(removed)) {}

bool EventPublisher::add(const uffd_msg& message) {
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT:
      addFault(message);
      return true;
    case UFFD_EVENT_REMOVE:
      count(segment_.counters().removes);
      removals_.add(message.arg.remove.start, message.arg.remove.end);
      return true;
    default:
      return false;
  }
}

void EventPublisher::addFault(const uffd_msg& fault) {
  faults_++;
  const auto page = segment_.regions().pageAt(fault.arg.pagefault.address);
  if (!page.has_value()) {
    count(segment_.counters().outsideFaults);
    return outside_.push_back(fault);
  }
  // The target tracks its writes synchronously, and has handed that to us as well.
  if (alone_ || (fault.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0) return present_.push_back(fault);
  router_.add(*page);
}

std::uint64_t EventPublisher::complete() {
  for (const AddressRange& removed : removals_.merged()) {
    for (const shm::PageRange range : segment_.regions().pagesIn(removed.start, removed.end)) {
      count(segment_.counters().removedPages, range.count);
      toMark_.push_back(range);
    }
    addPart(removed.start, removed);
    addPart(removed.end - 1, removed);
  }
  removals_.clear();
  removed_.insert(removed_.end(), toMark_.begin(), toMark_.end());
  std::reverse(toMark_.begin(), toMark_.end());
  return std::exchange(faults_, 0);
}

// MADV_REMOVE of shared huge pages takes any range. A page that is there the kernel clears in part. For a page that is to
// come neither the source's bytes nor zeros would be right.
void EventPublisher::addPart(std::uint64_t address, const AddressRange& removed) {
  const auto page = segment_.regions().pageAt(address);
  if (!page.has_value() || segment_.pages().state(*page) != shm::PageState::missing) return;
  const shm::PageLocation at = segment_.regions().locate(*page);
  if (at.address < removed.start || at.address + at.pageSize > removed.end) parts_.push_back(*page);
}

bool EventPublisher::publishSome(const shm::ExclusiveGuard& guard) {
  for (const shm::PageIndex page : parts_)
    if (segment_.pages().state(page) == shm::PageState::missing) segment_.pages().markGone(guard, {page, 1});
  for (std::uint64_t left = MARK_STEP; !toMark_.empty();) {
    if (left == 0) return false;
    shm::PageRange& range = toMark_.back();
    const shm::PageRange step{range.first,
                              std::min(range.count, failpoints_.armed() ? std::uint64_t{1} : left)};
    failpoints_.hit(Point::midMark, step.first);
    segment_.pages().markRemoved(guard, step);
    range = {step.end(), range.count - step.count};
    if (range.count == 0) toMark_.pop_back();
    left -= step.count;
  }
  return true;
}

void EventPublisher::handOut(std::uint64_t readAt) {
  router_.handOut(readAt);
  for (const uffd_msg& fault : present_) onPresent_(fault);
  present_.clear();
  for (const uffd_msg& fault : outside_) onOutside_(fault);
  outside_.clear();
  for (const shm::PageIndex page : std::exchange(parts_, {})) onPart_(page);
  for (const shm::PageRange& pages : removed_) onRemoved_(pages);
  removed_.clear();
}

}  // namespace faultline::coordinator
