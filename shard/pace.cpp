#include "shard/pace.h"

namespace faultline::shard {

namespace {

constexpr std::uint64_t FLOWING = 5'000'000;  // ns after a fault, in which more are expected
constexpr std::uint64_t JUDGED = 512;         // pages; so often it is judged whether faults are dense
constexpr std::uint64_t DENSE = 32;           // populated pages to a fault, at most, where they are
constexpr std::uint64_t YIELD_AFTER = 16;     // pages, where faults are rare
constexpr Pace::Sections SHORT{4, 32}, LONG{32, 128};

constexpr auto RELAXED = std::memory_order_relaxed;

}  // namespace

Pace::Sections Pace::sections(bool removals) const {
  return dense_.load(RELAXED) && !removals ? LONG : SHORT;
}

bool Pace::yields(std::uint64_t pages, std::uint64_t faults, std::uint64_t now) {
  if (faults_.exchange(faults, RELAXED) != faults) flowingTo_.store(now + FLOWING, RELAXED);
  const std::uint64_t judged = judged_.fetch_add(pages, RELAXED) + pages;
  if (judged >= JUDGED) {
    judged_.store(0, RELAXED);
    dense_.store((faults - faultsBefore_.exchange(faults, RELAXED)) * DENSE >= judged, RELAXED);
  }
  if (dense_.load(RELAXED) || now >= flowingTo_.load(RELAXED)) return false;
  if (unyielded_.fetch_add(pages, RELAXED) + pages < YIELD_AFTER) return false;
  unyielded_.store(0, RELAXED);
  return true;
}

}  // namespace faultline::shard
