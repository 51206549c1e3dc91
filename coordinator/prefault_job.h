// A requested background population, over all shards of a restore.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <map>
#include <vector>

#include "shmtracker/pages.h"

namespace faultline::coordinator {

// Loop thread only.
class PrefaultJob {
 public:
  static constexpr std::uint64_t NOT_ASKED = 0;

  explicit PrefaultJob(std::vector<shm::PageRange> ranges)
      : ranges(std::move(ranges)), paf_(kj::newPromiseAndFulfiller<void>()), finished_(paf_.promise.fork()) {}

  const std::vector<shm::PageRange> ranges;  // in the order wanted; empty: every page
  // Shards that have not finished, and the number of the run that each was asked for last, or NOT_ASKED.
  // After a reshard the answer of an earlier run says nothing: the shard owns other pages now.
  std::map<std::uint32_t, std::uint64_t> pending;
  // Runs that were to end before they were finished and have not answered yet, and their shards.
  std::map<std::uint64_t, std::uint32_t> ending;
  bool cancelled = false;

  kj::Promise<void> whenFinished() { return finished_.addBranch(); }
  bool finished() const { return done_; }
  void finish() {
    done_ = true;
    paf_.fulfiller->fulfill();
  }

 private:
  kj::PromiseFulfillerPair<void> paf_;
  kj::ForkedPromise<void> finished_;
  bool done_ = false;
};

}  // namespace faultline::coordinator
