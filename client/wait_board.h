// The pages that threads wait for at the moment: for a report on why nothing moves.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "process/clock.h"

namespace faultline::target {

// A board with a seat for each thread. A seat is written by its thread, and read by any.
class WaitBoard {
 public:
  struct Waiting {
    std::size_t seat;
    std::uint64_t page, ns;  // which, for how long
  };

  explicit WaitBoard(std::size_t seats) : seats_(seats) {}

  void enter(std::size_t seat, std::uint64_t page) {
    seats_[seat].since.store(process::nowNs(), std::memory_order_relaxed);
    seats_[seat].page.store(page, std::memory_order_release);
  }
  void leave(std::size_t seat) { seats_[seat].page.store(NONE, std::memory_order_release); }

  // The seats that have waited for at least `atLeastNs`.
  std::vector<Waiting> waiting(std::uint64_t atLeastNs) const {
    std::vector<Waiting> found;
    const std::uint64_t now = process::nowNs();
    for (std::size_t i = 0; i < seats_.size(); i++) {
      const std::uint64_t page = seats_[i].page.load(std::memory_order_acquire);
      const std::uint64_t since = seats_[i].since.load(std::memory_order_relaxed);
      if (page != NONE && now >= since + atLeastNs) found.push_back({i, page, now - since});
    }
    return found;
  }

 private:
  static constexpr std::uint64_t NONE = UINT64_MAX;
  struct alignas(64) Seat {  // a cache line each
    std::atomic<std::uint64_t> page{NONE}, since{0};
  };
  std::vector<Seat> seats_;
};

}  // namespace faultline::target
