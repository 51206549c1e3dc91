// Background population that somebody asked for, over all shards of a restore.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <set>
#include <vector>

#include "shmtracker/pages.h"

namespace faultline::coordinator {

// Loop thread only.
class PrefaultJob {
 public:
  PrefaultJob(std::uint64_t number, std::vector<shm::PageRange> ranges)
      : number(number),
        ranges(std::move(ranges)),
        paf_(kj::newPromiseAndFulfiller<void>()),
        finished_(paf_.promise.fork()) {}

  const std::uint64_t number;
  const std::vector<shm::PageRange> ranges;  // in the order wanted; empty: every page
  std::set<std::uint32_t> pending;           // shards that have not finished
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
