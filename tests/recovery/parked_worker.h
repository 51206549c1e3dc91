// A worker of a shard that a test holds, whatever becomes of the coordinator meanwhile.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/recovery/recovery_test.h"

namespace faultline::test {

// A shard's worker that populates one page in the background, parked at `point`. No thread waits for the
// page, so it is not asked for again.
class ParkedWorker {
 public:
  ParkedWorker(Server& server, const std::string& point, std::uint64_t page, unsigned n = 0)
      : shard_(server.shardPid(server.ownerOf(page, n))),
        pidfd_(static_cast<int>(syscall(SYS_pidfd_open, shard_, 0))),
        resume_(eventfd(0, EFD_CLOEXEC)),
        barrier_(nullptr) {
    const int reached = eventfd(0, EFD_CLOEXEC);
    auto request = shardHooks(server, server.ownerOf(page, n)).armRequest();
    request.setPoint(point.c_str());
    request.setAction(rpc::Action::PARK);
    request.setPage(page);
    request.setReached(rpc::makeFdFrom(reached));
    request.setResume(rpc::makeFdFrom(resume_));
    barrier_ = server.wait(request.send()).getBarrier();
    auto prefault = server.client().restore(Server::restoreName(n)).prefaultRequest();
    auto range = prefault.initRanges(1)[0];
    range.setFirst(page);
    range.setCount(1);
    server.wait(prefault.send());
    std::uint64_t value = 0;
    EXPECT_EQ(::read(reached, &value, sizeof value), static_cast<ssize_t>(sizeof value));
    close(reached);
  }
  ~ParkedWorker() {
    close(pidfd_);
    close(resume_);
  }
  ParkedWorker(const ParkedWorker&) = delete;

  void stop() { signal(SIGSTOP); }
  void letGo() {
    const std::uint64_t value = 1;
    EXPECT_EQ(write(resume_, &value, sizeof value), static_cast<ssize_t>(sizeof value));
    signal(SIGCONT);
  }
  // Lets the worker go, and returns when it has copied the page, or can do so no more.
  void release(const Target& target, std::uint64_t page) {
    letGo();
    await([&] { return ended() || target.inMemory(page); });
  }

 private:
  void signal(int number) { syscall(SYS_pidfd_send_signal, pidfd_, number, nullptr, 0); }
  bool ended() {
    pollfd exit{pidfd_, POLLIN, 0};
    return poll(&exit, 1, 0) == 1;
  }

  const pid_t shard_;
  const int pidfd_;
  const int resume_;
  rpc::Barrier::Client barrier_;
};

}  // namespace faultline::test
