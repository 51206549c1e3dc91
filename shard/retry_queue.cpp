#include "shard/retry_queue.h"

#include <algorithm>

namespace faultline::shard {

namespace {

constexpr auto LATER = [](const auto& a, const auto& b) { return a.due > b.due; };

std::uint64_t delayOf(const Fault& fault) {
  if (fault.sourceFailures > 0) {
    std::uint64_t delay = RetryQueue::FIRST_SOURCE_DELAY;
    for (std::uint32_t i = 1; i < fault.sourceFailures && delay < RetryQueue::LAST_SOURCE_DELAY; i++)
      delay *= 10;
    return delay;
  }
  const std::uint32_t tries = std::clamp<std::uint32_t>(fault.tries, 1, 11);
  return std::min(RetryQueue::FIRST_DELAY << (tries - 1), RetryQueue::LAST_DELAY);
}

}  // namespace

bool RetryQueue::push(const Fault& fault, std::uint64_t now) {
  if (entries_.size() == capacity_) return false;
  entries_.push_back({now + delayOf(fault), fault});
  std::push_heap(entries_.begin(), entries_.end(), LATER);
  return true;
}

std::optional<Fault> RetryQueue::popDue(std::uint64_t now) {
  if (entries_.empty() || entries_.front().due > now) return std::nullopt;
  std::pop_heap(entries_.begin(), entries_.end(), LATER);
  const Fault fault = entries_.back().fault;
  entries_.pop_back();
  return fault;
}

std::optional<std::uint64_t> RetryQueue::nextDue() const {
  if (entries_.empty()) return std::nullopt;
  return entries_.front().due;
}

void RetryQueue::forget(const Attachment* restore) {
  std::erase_if(entries_, [restore](const Entry& e) { return e.fault.restore == restore; });
  std::make_heap(entries_.begin(), entries_.end(), LATER);
}

}  // namespace faultline::shard
