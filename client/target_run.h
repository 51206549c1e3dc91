// A run of the target program: restores an image by touching it, and judges what came.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "client/page_oracle.h"

namespace faultline::target {

enum class Order { random, sequential };

struct RunOptions {
  std::string socket;
  std::string image;
  unsigned threads = 4;
  std::uint64_t pageSize = 4096;
  Order order = Order::random;
  unsigned regions = 1;
  double giveBackPercent = 0;  // of the pages, by a thread of its own while the others fault
  double writePercent = 0;
  bool remove = true;
  std::uint64_t seed = 1;
  unsigned connectTimeoutMs = 10'000;
};

struct RunResult {
  std::uint64_t pages = 0, fromSource = 0, zeroInSource = 0, removed = 0, written = 0;
  double seconds = 0;                    // from the first touch to the last
  std::uint64_t firstPageNs = 0;         // from the end of the handshake to the first page that was there
  std::vector<std::uint32_t> latencies;  // ns, one a page that a thread touched first
  std::optional<Mismatch> mismatch;
  std::optional<std::uint64_t> poisonedPage;
};

// Thrown where the machine does not allow it (no userfaultfd, no huge pages, no server).
struct EnvironmentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Runs to the end. `done`: pages judged so far, for who wants to show it.
RunResult run(const RunOptions& options, std::atomic<std::uint64_t>& done);

}  // namespace faultline::target
