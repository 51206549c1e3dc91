// Looks at pages, and keeps the first thing found wrong.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "client/page_oracle.h"
#include "client/restored_memory.h"
#include "client/wait_board.h"
#include "threads/mutex.h"

namespace faultline::target {

// A page that raised SIGBUS.
struct LostPage {
  std::uint64_t page;
  bool poisoned;  // by the server; else there was no memory for it
};

// The first touch of a page, as the thread saw it.
struct Touch {
  std::uint64_t begin = 0, end = 0;  // CLOCK_MONOTONIC, ns
  bool faulted = false;              // the thread had to wait for the page
};

// Any thread; `seat` is the thread's own on the board. A wrong page ends the run: stopped().
class PageJudge {
 public:
  PageJudge(const RestoredMemory& memory, PageOracle& oracle, WaitBoard& board, std::uint64_t pageSize)
      : memory_(memory), oracle_(oracle), board_(board), pageSize_(pageSize) {}

  // Touch every byte of the page. False: the page is not right, or can't be had.
  bool look(std::size_t seat, std::uint64_t page, Touch& touch);
  bool lookForZeros(std::size_t seat, std::uint64_t page);
  bool write(std::size_t seat, std::uint64_t page);

  // A call failed that must not: `what` is said as the reason.
  void breakOff(const std::string& what);
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  // What was found so far; final once stopped().
  std::optional<Mismatch> mismatch() const;
  std::optional<LostPage> lostPage() const;
  std::string broken() const;

 private:
  template <typename Work>
  bool guardedWork(std::size_t seat, std::uint64_t page, Work work);
  bool judge(const std::optional<Mismatch>& mismatch);

  const RestoredMemory& memory_;
  PageOracle& oracle_;
  WaitBoard& board_;
  const std::uint64_t pageSize_;
  std::atomic<bool> stopped_{false};
  mutable threads::Mutex mutex_;
  std::optional<Mismatch> mismatch_ GUARDED_BY(mutex_);
  std::optional<LostPage> lostPage_ GUARDED_BY(mutex_);
  std::string broken_ GUARDED_BY(mutex_);
};

}  // namespace faultline::target
