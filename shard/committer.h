// What is done about a fault, or about a run that is populated: one commit section (shard/commit_section.h), and
// what follows from its answer. The source's bytes, waking and waiting are others': a refusal (EAGAIN) ends the
// section, and a retry begins another.
#pragma once

#include <cstdint>

#include "failpoints/failpoints.h"
#include "shard/attachment.h"
#include "shard/commit_section.h"

namespace faultline::shard {

enum class Commit {
  done,      // in place; of a fault, its waiters are still to be woken
  poisoned,  // an error is in place, not bytes; waiters are still to be woken
  retry,     // refused, no memory, or the gate stays closed: come back through the lock, after a while
  unclear,   // a huge page is there already, or there is no memory for one: the kernel says the same to both
             // (mm/hugetlb.c, hugetlb_mfill_atomic_pte). Come back likewise; not for ever without a wake
  lost,      // the source's bytes went away between staging and copy: stage again
  unpoisonable,  // an error was to be delivered and this kernel cannot
  unregistered,  // the page was registered no more, and is marked so: who waits is to look again
  parted,        // of a run: no one mapping holds all of it, nothing was done: come back with fewer pages
  dropped,       // the target is gone, or the restore has failed and others answer
  gone,          // the page was registered anew after it had gone: an error is due, or the target's end
};

// Why a page is populated: a thread waits for it, or for a neighbour of it, or none does.
enum class Origin { fault, around, prefault };

// What has become of a run's front.
struct Progress {
  std::uint64_t pages = 0;      // that need no more work
  std::uint64_t populated = 0;  // those of them that were put in place now
};

// Stateless but for the hooks; any thread, each with a worker number of its own.
class Committer {
 public:
  explicit Committer(failpoints::Failpoints& failpoints) : failpoints_(failpoints) {}

  // Answers a fault on `page`. `content` counts only if the page is still missing, or an error and the page
  // is gone; otherwise the answer is zeros. The caller wakes, after `done`: a thread woken inside the section
  // may take the CPU, and the coordinator would wait for the lock's holder.
  Commit commitFault(Attachment& restore, unsigned worker, shm::PageIndex page, Content content) const;

  // Populates what is still missing at the front of `run` (adjacent pages of one region, content likewise
  // adjacent), at most `limit` pages in this section. `progress`: of this section.
  // Pages that are registered no more count as done, their threads are woken. Around a fault the caller wakes, after
  // `done`; for a population the kernel does, with the copy.
  Commit commitRun(Attachment& restore, unsigned worker, shm::PageRange run, std::uint64_t limit,
                   Content content, Origin origin, Progress& progress) const;

  // Makes the threads that wait for the pages, adjacent ones of one region, go on where they are there, or else fault
  // again: the kernel then is the queue.
  static void wake(Attachment& restore, shm::PageRange pages);
  static void wake(Attachment& restore, shm::PageIndex page) { wake(restore, shm::PageRange{page, 1}); }

  failpoints::Failpoints& failpoints() const { return failpoints_; }

 private:
  Commit answer(Attachment& restore, unsigned worker, shm::PageIndex page, Content content) const;
  Commit advance(Attachment& restore, unsigned worker, shm::PageRange run, std::uint64_t limit,
                 Content content, Origin origin, Progress& progress) const;

  failpoints::Failpoints& failpoints_;
};

}  // namespace faultline::shard
