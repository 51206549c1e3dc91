// A look at a restore: its state and its figures, summed over its shards.
#pragma once

#include <cstdint>
#include <string>

#include "rpc/control.capnp.h"
#include "shmtracker/counters.h"

namespace faultline::cli {

struct RestoreView {
  std::string name, failure;
  rpc::Phase phase = rpc::Phase::SERVING;
  std::uint32_t targetPid = 0;
  std::uint64_t pages = 0, missing = 0, faulted = 0, removed = 0, released = 0;
  std::uint64_t bytes = 0;  // size of the target's memory
  std::uint64_t segmentBytes = 0;
  std::uint64_t ageNs = 0;

  // --- of the statistics ---
  std::uint64_t faults = 0, removes = 0;                    // events of the target
  std::uint64_t copied = 0, zeroed = 0, zeroedRemoved = 0;  // pages, by how they came
  std::uint64_t prefaulted = 0;                             // part of copied and zeroed
  std::uint64_t poisoned = 0;                               // pages
  shm::Histogram::Snapshot latency;                         // latency of a fault, from its read to its page

  // Replaces one part of the above, and keeps nothing of the reader.
  void take(rpc::RestoreInfo::Reader info);
  void take(rpc::RestoreStats::Reader stats);

  // Share of the pages that are populated or given back: nothing is to be fetched for them any more.
  double donePercent() const;
  std::uint64_t byFault() const { return copied + zeroed + zeroedRemoved - prefaulted; }  // pages
};

// Rates between two looks; over the whole life where there was no look before.
struct Rates {
  double pages = 0, bytes = 0, faults = 0;  // a second
};
Rates ratesBetween(const RestoreView* before, const RestoreView& now);

const char* phaseName(rpc::Phase phase);

}  // namespace faultline::cli
