// The steps of a successor with one restore before it reads an event of its userfaultfd:
//
//   lock the segment in memory -> drain -> publish what the predecessor had read -> check the page table -> open
//
// The first, third and fourth take as long as the restore is large, so they are done in steps, between which the loop
// serves others. A successor that dies in between leaves all of it to the next one: the gate closed, the messages in the
// journal.
#pragma once

#include <kj/async-io.h>

#include <optional>
#include <string>

#include "coordinator/event_publisher.h"
#include "coordinator/reading_turns.h"
#include "coordinator/write_side.h"
#include "failpoints/failpoints.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only.
class Recovery {
 public:
  // Why the restore cannot be trusted any more; nothing where it can.
  using Verdict = std::optional<std::string>;

  // Borrows all.
  Recovery(kj::AsyncIoContext& io, shm::Segment& segment, WriteSide& writeSide, EventPublisher& events,
           failpoints::Failpoints& failpoints, ReadingTurns& turns);
  Recovery(const Recovery&) = delete;
  // Dropped before its end, it leaves a segment that says that it had failed: then the gate can open.
  ~Recovery();

  // Called once, with the gate closed, which it is until the end; the write side is taken all the time. Faults are not handed
  // out: their threads are to be woken, and fault again. Fails where the segment cannot be locked in memory, or the lock
  // is beyond repair.
  kj::Promise<Verdict> run();

 private:
  kj::Promise<void> lockOn();
  kj::Promise<shm::ExclusiveGuard> drained();
  kj::Promise<void> replay();
  kj::Promise<void> markOn();
  kj::Promise<void> checkOn();
  void checked();
  Verdict open();

  kj::AsyncIoContext& io_;
  shm::Segment& segment_;
  WriteSide& writeSide_;
  EventPublisher& events_;
  failpoints::Failpoints& failpoints_;
  ReadingTurns& turns_;
  std::optional<shm::ExclusiveGuard> guard_;
  shm::PageIndex next_ = 0;  // the first page that is not checked
  shm::PageCheck found_;
  Verdict verdict_;
  bool over_ = false;
};

}  // namespace faultline::coordinator
