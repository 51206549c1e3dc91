// How a population takes turns with the faults of its restore.
//
// A fault's way goes through three threads, and where one of them finds a worker of a population on its CPU, it waits
// until the worker's slice ends, some ms, or the worker yields. But a yield also hands the CPU to threads whose next touch
// is a fault again, which takes ten times as much of it as the same page in a population. So it depends on how many faults
// come:
//   none   nothing is waited for: no yield
//   rare   short sections, and a yield after fewer pages than are copied in the time of a fault
//   dense  the population is their fastest answer: long sections, no yield; short ones while removals come as well
#pragma once

#include <atomic>
#include <cstdint>

namespace faultline::shard {

// Of one population. Any thread: two that race may judge a moment differently, no more.
class Pace {
 public:
  // Pages in one section where removals can come: the first, and as long as the coordinator does not close the gate up to
  // the last.
  struct Sections {
    std::uint64_t shortest, longest;
  };
  // `removals`: some have come lately.
  Sections sections(bool removals) const;

  // A worker has populated `pages` more, and the shard has taken `faults` of the restore so far; `now` in ns. True: the
  // worker is to yield before its next section.
  bool yields(std::uint64_t pages, std::uint64_t faults, std::uint64_t now);

 private:
  std::atomic<bool> dense_{false};
  std::atomic<std::uint64_t> faults_{0};     // as yields() saw them last
  std::atomic<std::uint64_t> flowingTo_{0};  // ns; faults are expected until then
  std::atomic<std::uint64_t> unyielded_{0};  // pages since the last yield
  // Since it was last judged: pages, and the faults before.
  std::atomic<std::uint64_t> judged_{0}, faultsBefore_{0};
};

}  // namespace faultline::shard
