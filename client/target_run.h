// A run of the target program: restores an image by touching it, and judges the pages that came.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "client/image.h"
#include "client/latency_histogram.h"
#include "client/page_judge.h"
#include "client/page_oracle.h"
#include "client/restored_memory.h"
#include "client/run_plan.h"
#include "client/wait_board.h"

namespace faultline::target {

struct RunOptions {
  std::string socket;
  std::string image;
  unsigned threads = 4;
  std::uint64_t pageSize = 4096;
  Order order = Order::random;
  unsigned regions = 1;
  double giveBackPercent = 0;  // of the pages, given back by a thread of its own while others fault
  double writePercent = 0;
  bool remove = true;  // ask for REMOVE events
  std::uint64_t seed = 1;
  // Once so many pages have been touched the whole process stops, until SIGCONT; 0: never.
  std::uint64_t stopAfter = 0;
  unsigned connectTimeoutMs = 10'000;
};

struct RunResult {
  std::uint64_t pages = 0;
  // Pages by what they held in the end, every byte compared; together they are `pages` where all is right.
  std::uint64_t fromSource = 0, zeroInSource = 0, removed = 0, written = 0;
  std::uint64_t givenBack = 0;       // pages, counted as often as they were
  double seconds = 0;                // from the end of the handshake until every page was looked at once
  std::uint64_t firstPageNs = 0;     // from the end of the handshake to the first page that was there
  LatencyHistogram touches;          // first touch of each page
  LatencyHistogram faults;           // first touches that waited for the page
  LatencyHistogram madvises;         // every madvise
  std::optional<Mismatch> mismatch;  // the first found
  std::optional<LostPage> lostPage;
};

// Every page is touched and compared by one of the threads while another gives memory back; then, at rest,
// every page is compared once more, which is strict.
class Run {
 public:
  // Maps the memory. `options` outlives the run. UsageError, EnvironmentError.
  explicit Run(const RunOptions& options);
  Run(const Run&) = delete;

  // Connects and runs to the end. Once. EnvironmentError.
  RunResult go();

  // --- any thread ---
  struct Progress {
    const char* phase;
    std::uint64_t pages;  // done in this phase
  };
  Progress progress() const;
  std::uint64_t pages() const { return image_.pages(); }
  // Threads that have been at one page, or in one madvise (seat givingSeat()), for at least so long.
  std::vector<WaitBoard::Waiting> waiting(std::uint64_t atLeastNs) const { return board_.waiting(atLeastNs); }
  std::size_t givingSeat() const { return options_.threads; }
  const RestoredMemory& memory() const { return memory_; }

 private:
  struct ThreadResult {
    LatencyHistogram touches, faults;
    std::uint64_t firstPageAt = UINT64_MAX;
    std::uint64_t contents[3] = {};  // pages by Content
    std::uint64_t zeroInSource = 0;
  };

  void touchAll(RunResult& result);
  void touchShare(unsigned thread, ThreadResult& result);
  void tell(unsigned thread, std::uint64_t done);
  void stopWhereAsked();
  void giveBack(RunResult& result);
  void await(const Removal& removal);
  bool giveBackOne(const Removal& removal, RunResult& result);
  void lookAgain(RunResult& result);
  void lookAgainShare(unsigned thread, ThreadResult& result);

  const RunOptions& options_;
  const Image image_;
  RestoredMemory memory_;
  const std::vector<std::vector<std::uint64_t>> touches_;
  const std::vector<Removal> removals_;
  PageOracle oracle_;
  WaitBoard board_;  // a seat for each touching thread, and one for the giving thread
  PageJudge judge_;
  static constexpr std::uint64_t NONE = UINT64_MAX;
  struct alignas(64) Position {
    std::atomic<std::uint64_t> pages{0};      // pages of the thread's share touched so far
    std::atomic<std::uint64_t> meetAt{NONE};  // the giving thread waits to meet it there
  };
  std::vector<Position> positions_;
  std::atomic<std::uint64_t> touched_{0};  // pages, where the process is to stop
  std::atomic<bool> again_{false};
};

}  // namespace faultline::target
