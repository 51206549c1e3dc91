// The service of a restore that cannot go on: every fault gets an error (SIGBUS), so that the target learns
// it, never waits for ever, and never reads wrong bytes.
#pragma once

#include <kj/async-io.h>
#include <kj/async-unix.h>
#include <linux/userfaultfd.h>

#include <string>

#include "coordinator/fault_answerer.h"

namespace faultline::coordinator {

// Loop thread only. Trusts nothing of the restore's segment.
class Undertaker {
 public:
  // Borrows both fds. `target`: pidfd, or -1; a target that cannot be told (kernels before 6.6 cannot poison)
  // is killed instead.
  Undertaker(kj::AsyncIoContext& io, int uffd, int target, std::string name);

  // Wakes every thread that waits and answers each with an error, until dropped. Threads must be out of
  // commit sections, and begin none.
  kj::Promise<void> run();

 private:
  kj::Promise<void> answerAll();
  bool answerBatch();

  kj::AsyncIoContext& io_;
  const int uffd_;
  FaultAnswerer answerer_;
  kj::UnixEventPort::FdObserver observer_;
};

}  // namespace faultline::coordinator
