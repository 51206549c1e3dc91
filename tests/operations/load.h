// Threads that use a target's memory all the time while a test does something to its server.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "tests/support/target.h"

namespace faultline::test {

// Threads have pages of their own. A thread reads a page for the first time and compares it, or gives it back
// and sees that it reads as zeros; a last part of the pages is left for finish(), and until then pages are
// given back and touched again, so faults and removals never end.
class Load {
 public:
  Load(const Target& target, unsigned threads);
  ~Load();
  Load(const Load&) = delete;

  // Returns when the server has answered so many more pages of every thread.
  void awaitMore(std::uint64_t pages) const;
  // Lets the threads go through all that is left, and then judges every page of the target.
  void finish();

 private:
  void run(unsigned thread);
  void visit(std::uint64_t page);
  void giveBack(std::uint64_t page);

  const Target& target_;
  const unsigned count_;
  std::vector<std::atomic<std::uint8_t>> given_;  // 1: given back
  std::vector<std::atomic<std::uint64_t>> done_;  // by thread
  std::atomic<std::uint64_t> wrong_{0};
  std::atomic<bool> finishing_{false};
  std::vector<std::thread> threads_;
};

}  // namespace faultline::test
