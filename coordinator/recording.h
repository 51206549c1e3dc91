// The recording of a restore's working set: begun, gone on with after a predecessor, and given up where it cannot be had.
// Without it the restore goes on: it is worth more.
#pragma once

#include <kj/async.h>
#include <kj/io.h>

#include <memory>
#include <string>

#include "coordinator/event_log.h"
#include "coordinator/fault_router.h"
#include "coordinator/supervisor_link.h"
#include "coordinator/touch_recorder.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only.
class Recording {
 public:
  // Borrows all. Records nothing yet.
  Recording(SupervisorLink& link, EventLog& log, const shm::Segment& segment, FaultRouter& router);

  void begin();
  // On a predecessor's recording; -1: it left none. To take it over is to look at all of it, and to make a bit for each
  // page: a thread of its own does that. Never fails. This must outlive the promise.
  kj::Promise<void> goOn(kj::AutoCloseFd kept);

  // Null where nothing is recorded.
  std::shared_ptr<const TouchRecorder> recorder() const { return recorder_; }
  // What a successor needs of it, borrowed; -1: nothing is recorded.
  int fd() const { return recorder_ == nullptr ? -1 : recorder_->fd(); }

 private:
  void use(std::shared_ptr<TouchRecorder> recorder);
  void giveUp(const std::string& why);

  SupervisorLink& link_;
  EventLog& log_;
  const shm::Segment& segment_;
  FaultRouter& router_;
  std::shared_ptr<TouchRecorder> recorder_;
};

}  // namespace faultline::coordinator
