#include "client/run_plan.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace faultline::target {

namespace {

// Mostly few pages, seldom many, as balloons and free page reporting do.
std::uint64_t planLength(std::mt19937_64& random, Removal::Aim aim, std::uint64_t wanted) {
  const std::uint64_t most = aim == Removal::Aim::meet ? 8 : random() % 32 == 0 ? 256 : 16;
  return 1 + random() % std::min(most, 1 + wanted / 8);
}

}  // namespace

std::vector<std::vector<std::uint64_t>> planTouches(std::uint64_t pages, unsigned threads, Order order,
                                                    std::uint64_t seed) {
  std::vector<std::vector<std::uint64_t>> touches(threads);
  for (std::uint64_t page = 0; page < pages; page++) touches[page % threads].push_back(page);
  if (order == Order::sequential) return touches;
  for (unsigned thread = 0; thread < threads; thread++)
    std::shuffle(touches[thread].begin(), touches[thread].end(), std::mt19937_64(seed * 1000 + thread));
  return touches;
}

std::vector<Removal> planRemovals(const RestoredMemory& memory,
                                  const std::vector<std::vector<std::uint64_t>>& touches, double percent,
                                  std::uint64_t seed) {
  // Threads beyond the number of pages have nothing to touch.
  std::uint64_t pages = 0, threads = 0;
  for (const auto& share : touches) {
    pages += share.size();
    threads += share.empty() ? 0 : 1;
  }
  const auto wanted = static_cast<std::uint64_t>(std::llround(static_cast<double>(pages) * percent / 100));
  std::mt19937_64 random(seed * 7919 + 17);
  std::vector<Removal> removals;
  for (std::uint64_t planned = 0; planned < wanted;) {
    Removal removal{};
    removal.aim = random() % 2 == 0 ? Removal::Aim::meet : Removal::Aim::anywhere;
    removal.thread = random() % threads;
    const auto& share = touches[removal.thread];
    removal.position = share.size() * planned / wanted;
    const std::uint64_t length = std::min(planLength(random, removal.aim, wanted), wanted - planned);
    removal.slot = random() % pages;
    if (removal.aim == Removal::Aim::meet) {
      const std::uint64_t slot = memory.slotOf(share[removal.position]);
      const std::uint64_t before = std::min(slot, random() % length);
      // Without a gap up to the page itself: regions need not be neighbours.
      removal.slot = memory.contiguous(slot - before, before + 1) == before + 1 ? slot - before : slot;
    }
    removal.pages = memory.contiguous(removal.slot, length);
    removal.after = random() % 2 == 0 ? Removal::After::touchAgain : Removal::After::leave;
    planned += removal.pages;
    removals.push_back(removal);
  }
  return removals;
}

bool planWrite(std::uint64_t page, double percent, std::uint64_t seed) {
  std::uint64_t mixed = (page + 1) * 0x9e3779b97f4a7c15 ^ seed * 0xbf58476d1ce4e5b9;  // splitmix64's mixing
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
  return static_cast<double>((mixed ^ mixed >> 31) >> 11) * 0x1p-53 * 100 < percent;
}

}  // namespace faultline::target
