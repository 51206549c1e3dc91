// The service of a restore that cannot go on: every fault gets an error (SIGBUS), so that the target learns
// it, never waits for ever, and never reads wrong bytes.
#pragma once

#include <kj/async-io.h>
#include <kj/async-unix.h>
#include <linux/userfaultfd.h>

#include <string>

namespace faultline::coordinator {

// Answers one fault with an error, or lets its thread look again where that is not possible just now. false:
// this kernel cannot. To be called by nobody who holds the lock's write side: it may take its time.
bool answerWithError(int uffd, const uffd_msg& fault);

// Loop thread only. Trusts nothing of the restore's segment.
class Undertaker {
 public:
  // Borrows both fds. `target`: pidfd, or -1; a target that cannot be told (kernels before 6.6 cannot poison)
  // is killed instead.
  Undertaker(kj::AsyncIoContext& io, int uffd, int target, std::string name);

  // Wakes every thread that waits and answers each with an error, until dropped. No thread may be inside a
  // commit section any more, or begin one.
  kj::Promise<void> run();

 private:
  kj::Promise<void> answerAll();
  bool answerBatch();
  void answer(const uffd_msg& fault);

  kj::AsyncIoContext& io_;
  const int uffd_;
  const int target_;
  const std::string name_;
  kj::UnixEventPort::FdObserver observer_;
};

}  // namespace faultline::coordinator
